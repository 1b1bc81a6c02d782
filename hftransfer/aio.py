"""The asynchronous originals of the functions of `hftransfer`. They run on asyncio."""

from __future__ import annotations

from collections.abc import Sequence

from hftransfer._client import AnyLocation, AsyncClient
from hftransfer._manifest import Manifest
from hftransfer._patterns import Patterns
from hftransfer._snapshot import hf_hub_download, snapshot_download
from hftransfer.options import TransferOptions
from hftransfer.report import Report

__all__ = ("copy", "hf_hub_download", "snapshot_download")


async def copy(
    source: AnyLocation,
    destination: AnyLocation | Sequence[AnyLocation],
    *,
    options: TransferOptions | None = None,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    manifest: Manifest | None = None,
    sidecar: bool = False,
) -> Report:
    """Copy with a client of its own; see `AsyncClient.copy`.

    Args:
        options: of that client. Default: `TransferOptions.from_env()`.
    """
    async with AsyncClient(options) as client:
        return await client.copy(
            source,
            destination,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            manifest=manifest,
            sidecar=sidecar,
        )
