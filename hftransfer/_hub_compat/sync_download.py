"""`snapshot_download` and `hf_hub_download` for synchronous code: the public functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from hftransfer._hub_compat import download
from hftransfer._hub_compat.pinned import pinned_snapshot
from hftransfer.sync import run_sync

__all__ = ("hf_hub_download", "snapshot_download")

P = ParamSpec("P")


def _looking_in_cache_first(function: Callable[P, Any]) -> Callable[P, Any]:
    """Return `function` preceded by `pinned_snapshot`, which needs no event loop and no thread."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
        # `pinned_snapshot` returns None for invalid arguments; `function` raises their error.
        found = pinned_snapshot(*args, **kwargs) if len(args) == 1 else None  # type: ignore[arg-type]
        return function(*args, **kwargs) if found is None else found

    return wrapper


snapshot_download = _looking_in_cache_first(run_sync(download.snapshot_download))
hf_hub_download = run_sync(download.hf_hub_download)
