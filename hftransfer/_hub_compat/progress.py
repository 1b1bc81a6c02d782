"""Progress events shown on the bars of huggingface_hub, or of a ``tqdm_class`` of the caller's."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from hftransfer._core.events import BytesMoved, Event, FileFinished, FileStarted, TransferStarted

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ("HubProgress",)


class HubProgress:
    """An observer with a bar for bytes and, for several files, one for files.

    The bars appear when the transfer starts, since their numbers are known only then.

    Args:
        tqdm_class: makes the bars. Default: huggingface_hub's, which is silent where the
            user turned bars off (``HF_HUB_DISABLE_PROGRESS_BARS``,
            ``disable_progress_bars()``) and where there is no terminal. It alone
            understands ``name`` and is told to look for a terminal; another class decides
            for itself, as in huggingface_hub.
        group: the bars' name, by which users turn groups of bars off.
        description: of the bar for bytes.
        counts_files: whether there is a bar for files.
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

    def _start(self, files: int) -> None:
        from huggingface_hub.utils import tqdm as hub_tqdm

        cls = self._class or hub_tqdm
        own: dict[str, Any] = {}
        if isinstance(cls, type) and issubclass(cls, hub_tqdm):
            own = {"name": self._group, "disable": None}
        if self._counts_files:
            self._files = cls(desc=f"Fetching {files} files", total=files, **own)
        self._bytes = cls(
            desc=self._description, total=0, initial=0, unit="B", unit_scale=True, **own
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
        elif isinstance(event, FileStarted):
            self._grow(event.size)
        elif isinstance(event, BytesMoved):
            self._bytes.update(event.bytes)
        elif isinstance(event, FileFinished):
            if event.skipped:
                self._grow(-event.size)
            if self._files is not None:
                self._files.update(1)

    def _grow(self, size: int) -> None:
        self._bytes.total = (getattr(self._bytes, "total", 0) or 0) + size
        if hasattr(self._bytes, "refresh"):
            self._bytes.refresh()
