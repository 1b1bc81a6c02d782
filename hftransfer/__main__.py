"""Entry point of the command ``hftransfer`` and of ``python -m hftransfer``."""

import gc

__all__ = ("run",)

# Thresholds of the garbage collector's three generations (`gc.set_threshold`). A transfer keeps
# many objects and makes few reference cycles: with Python's defaults, repeated scans of the same
# objects took 4 % of the time of a copy of thousands of small files.
_GC_THRESHOLDS = (20_000, 20, 100)


def run() -> int:
    """Run the command line with the arguments of the process and return its exit code."""
    gc.set_threshold(*_GC_THRESHOLDS)
    from hftransfer.cli import main

    return main()


if __name__ == "__main__":
    raise SystemExit(run())
