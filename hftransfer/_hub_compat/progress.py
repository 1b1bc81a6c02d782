"""Shows progress events in huggingface_hub's progress bars, or in the caller's ``tqdm_class``."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hftransfer._core.events import (
    BytesMoved,
    Event,
    FileFinished,
    FileStarted,
    ListingProgress,
    Recovered,
    TransferStarted,
    Waiting,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ("HubProgress",)

_logger = logging.getLogger("hftransfer")

# Seconds without an answer of a server from which that is logged.
_MIN_OUTAGE = 1.0


class HubProgress:
    """An observer with a bar of bytes and optionally a bar of files.

    The bars are created when the transfer starts: their totals are not known earlier.

    Args:
        tqdm_class: makes the bars. None for huggingface_hub's, which shows nothing without a
            terminal or after ``disable_progress_bars()`` (``HF_HUB_DISABLE_PROGRESS_BARS``).
            As in huggingface_hub, only its own class and subclasses get the arguments ``name``
            and ``disable``.
        group: the bars' ``name``, by which ``disable_progress_bars`` selects bars.
        description: of the bar of bytes.
        counts_files: True for a bar of files.
    """

    def __init__(
        self, tqdm_class: Any, *, group: str, description: str, counts_files: bool = False
    ) -> None:
        self._class = tqdm_class
        self._group = group
        self._description = description
        self._counts_files = counts_files
        self._bytes: Any = None
        self._files: Any = None
        self._is_waiting = False
        """True while a server is down, once that was logged."""

    def _start(self, files: int) -> None:
        from huggingface_hub.utils import tqdm as hub_tqdm

        cls = self._class or hub_tqdm
        extra: dict[str, Any] = {}
        if isinstance(cls, type) and issubclass(cls, hub_tqdm):
            extra = {"name": self._group, "disable": None}  # None: disabled without a terminal
        if self._counts_files:
            self._files = cls(desc=f"Fetching {files} files", total=files, **extra)
        self._bytes = cls(
            desc=self._description, total=0, initial=0, unit="B", unit_scale=True, **extra
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for bar in (self._bytes, self._files):
            if bar is not None and hasattr(bar, "close"):
                bar.close()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, TransferStarted):
            self._start(event.files)
        elif isinstance(event, ListingProgress):
            self._set_files(event.files)
        elif isinstance(event, FileStarted):
            self._add_to_total(event.size)
        elif isinstance(event, BytesMoved):
            self._bytes.update(event.bytes)
        elif isinstance(event, FileFinished):
            if event.skipped:
                self._add_to_total(-event.size)
            if self._files is not None:
                self._files.update(1)
        elif isinstance(event, Waiting):
            # As a warning, once per outage, because there may be no bar and no terminal.
            if not self._is_waiting and (event.requested or event.elapsed >= _MIN_OUTAGE):
                self._is_waiting = True
                _logger.warning("%s", event)
        elif isinstance(event, Recovered):
            if self._is_waiting:
                _logger.warning("%s", event)
            self._is_waiting = False

    def _set_files(self, files: int) -> None:
        """Set the total of the bar of files, when more of a large repository is listed."""
        if self._files is None:
            return
        self._files.total = files
        if hasattr(self._files, "set_description"):
            self._files.set_description(f"Fetching {files} files")

    def _add_to_total(self, size: int) -> None:
        self._bytes.total = (getattr(self._bytes, "total", 0) or 0) + size
        if hasattr(self._bytes, "refresh"):
            self._bytes.refresh()
