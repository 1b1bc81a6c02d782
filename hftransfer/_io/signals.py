"""SIGTERM as an exception, so that a terminated process cleans up.

Used by the synchronous API and the command line, in the main thread. Imports only the standard
library, because it is loaded before a command does anything.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ("terminable",)


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
