"""The functions of `hftransfer` as coroutine functions, for code that runs on asyncio."""

from __future__ import annotations

from hftransfer._client.client import copy
from hftransfer._hub_compat.download import hf_hub_download, snapshot_download

__all__ = ("copy", "hf_hub_download", "snapshot_download")
