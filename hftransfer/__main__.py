"""Entry point of the command ``hftransfer`` and of ``python -m hftransfer``."""

import gc
import os

__all__ = ("run",)

# Thresholds of the garbage collector's three generations (`gc.set_threshold`). A transfer keeps
# many objects and makes few reference cycles: with Python's defaults, repeated scans of the same
# objects took 4 % of the time of a copy of thousands of small files.
_GC_THRESHOLDS = (20_000, 20, 100)


def run() -> int:
    """Run the command line with the arguments of the process and return its exit code."""
    try:
        from hftransfer._io.signals import exit_on_interrupt, ignore_interrupts

        exit_on_interrupt()
        gc.set_threshold(*_GC_THRESHOLDS)
        from hftransfer.cli import main

        code = main()
        ignore_interrupts()
    except KeyboardInterrupt:  # before `exit_on_interrupt`
        os.write(2, b"hftransfer: interrupted\n")
        return 130
    return code


if __name__ == "__main__":
    raise SystemExit(run())
