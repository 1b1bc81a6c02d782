"""The command line in a process of its own: ``hftransfer``, and ``python -m hftransfer``."""

import gc

__all__ = ("run",)

# Objects more, and collections of the younger ones, before the collector looks for cycles. A
# transfer makes few, and keeps many objects that are none: to look at these again and again
# takes 4 % of the time in which thousands of small files are copied.
_THRESHOLDS = (20_000, 20, 100)


def run() -> int:
    """Run the command line with the arguments of the process; return its exit code."""
    gc.set_threshold(*_THRESHOLDS)
    from hftransfer.cli import main

    return main()


if __name__ == "__main__":
    raise SystemExit(run())
