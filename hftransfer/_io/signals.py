"""SIGTERM as an exception, so that a terminated process cleans up; SIGINT at any moment.

Used by the synchronous API and the command line, in the main thread. Imports only the standard
library, because it is loaded before a command does anything.

Python's own handler raises KeyboardInterrupt between any two bytecodes. While a thread is started
or ended that may leave it behind, or wait for it forever: `deferred_interrupts`. In the middle of
an import, or of a callback of the interpreter, it prints a traceback: `exit_on_interrupt`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = (
    "INTERRUPTED",
    "deferred_interrupts",
    "exit_on_interrupt",
    "ignore_interrupts",
    "raising_interrupts",
    "terminable",
)

INTERRUPTED = "hftransfer: interrupted; run the same command again to resume"
"""What the command line prints after SIGINT."""

_raising = 0
"""Blocks of `raising_interrupts` that are running."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise SystemExit(143) for a SIGTERM that arrives during a ``with`` block.

    This has no effect in other threads than the main thread, or if SIGTERM has a handler other
    than the default one.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Handle a SIGINT that arrives during a ``with`` block after the block.

    The block must be short. This has no effect in other threads than the main thread, or if no
    Python function handles SIGINT.
    """
    handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not callable(handler):
        yield
        return
    received: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            handler(signal.SIGINT, received[0])


def exit_on_interrupt() -> None:
    """Make SIGINT end the process at once with code 130, except in `raising_interrupts`.

    For a process whose main program is the command line. What it does between these blocks
    (imports, arguments, output) needs no clean-up. An ignored SIGINT stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_or_raise)


def _exit_or_raise(number: int, frame: FrameType | None) -> None:
    if _raising:
        raise KeyboardInterrupt
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


def ignore_interrupts() -> None:
    """Ignore SIGINT from now on, since the process has done its work and is about to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def raising_interrupts() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt during a ``with`` block, which cleans up after it."""
    global _raising
    _raising += 1
    try:
        yield
    finally:
        _raising -= 1
