"""`snapshot_download` and `hf_hub_download` for synchronous code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from hftransfer._hub_compat import download
from hftransfer._hub_compat.pinned import pinned_snapshot
from hftransfer.sync import run_sync

__all__ = ("hf_hub_download", "snapshot_download")

P = ParamSpec("P")


def _unless_pinned(download: Callable[P, Any]) -> Callable[P, Any]:
    """Return `download`, which starts an event loop only where a file may have to be fetched."""

    @wraps(download)
    def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        # Wrong arguments find nothing here, and are explained there.
        found = pinned_snapshot(*args, **kwargs) if len(args) == 1 else None  # type: ignore[arg-type]
        return download(*args, **kwargs) if found is None else found

    return run


snapshot_download = _unless_pinned(run_sync(download.snapshot_download))
hf_hub_download = run_sync(download.hf_hub_download)
