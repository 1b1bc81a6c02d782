"""The progress display of the command line, on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from hftransfer._core.units import format_size

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from hftransfer._core.events import Event

__all__ = ("ProgressDisplay",)

_TERMINAL_STEP = 4 << 20
"""Bytes between two updates of the line on a terminal."""
_LOG_STEP = 0.1
"""Fraction of the transfer between two lines in a log."""
_MIN_OUTAGE = 1.0
"""Seconds without an answer of a server from which that is shown."""


class ProgressDisplay:
    """An observer that shows progress: one updated line on a terminal, else a line per 10 %.

    Use as a context manager around the transfer. The events arrive in the event loop's thread;
    nothing else writes to the stream until that thread has ended.

    Args:
        stream: where to write, such as ``sys.stderr``.
        quiet: write nothing.
    """

    def __init__(self, stream: TextIO, *, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._on_terminal = stream.isatty()
        self._total = 0
        self._is_listed = True
        """False while more files are being listed: `_total` grows."""
        self._moved = 0
        self._shown = 0
        """What `_moved` was when the line was last written."""
        self._has_line = False
        """True if the terminal's last line was written here and has no end."""
        self._is_waiting = False
        """True while a server is down: then failures of single files add nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._has_line:
            self._write("\n")

    def __call__(self, event: Event, /) -> None:
        from hftransfer._core.events import (
            BytesMoved,
            ListingProgress,
            Recovered,
            Retrying,
            TransferStarted,
            Waiting,
        )

        if isinstance(event, TransferStarted | ListingProgress):
            self._total = event.bytes
            self._is_listed = event.is_complete
        elif isinstance(event, BytesMoved):
            self._moved += event.bytes
            self._show()
        elif self._quiet:
            return
        elif isinstance(event, Waiting):
            self._is_waiting = True
            if event.requested or event.elapsed >= _MIN_OUTAGE:
                self._show_state(str(event))
        elif isinstance(event, Recovered):
            self._is_waiting = False
            if event.seconds >= _MIN_OUTAGE:
                self._show_state(str(event))
        elif isinstance(event, Retrying) and not self._on_terminal and not self._is_waiting:
            self._write(f"{event.path}: {event.error}; retrying in {event.delay:.1f} s\n")

    def _show_state(self, text: str) -> None:
        """Write what is waited for; on a terminal in the place of the progress."""
        self._write(f"\r\x1b[K{text}" if self._on_terminal else f"{text}\n")
        self._has_line = self._on_terminal

    def _show(self) -> None:
        step: float = _TERMINAL_STEP
        if not self._on_terminal:
            # A total that grows is small at first: its tenth would be a line per file.
            share = self._total * _LOG_STEP
            step = share if self._is_listed else max(step, share)
        is_finished = self._is_listed and self._moved >= self._total
        if self._quiet or not (abs(self._moved - self._shown) >= step or is_finished):
            return
        self._shown = self._moved
        sizes = f"{format_size(self._moved)} of {format_size(self._total)}"
        if self._is_listed:
            percent = 100 * self._moved // self._total if self._total else 100
            line = f"{percent:3d} %  {sizes}"
        else:
            line = f"       {sizes} listed so far"
        # On a terminal: return to the first column and erase the line that is there.
        self._write(f"\r\x1b[K{line}" if self._on_terminal else f"{line}\n")
        self._has_line = self._on_terminal

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
