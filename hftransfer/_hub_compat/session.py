"""The requests of one download with huggingface_hub's interface: first for names, then bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from anyio import to_thread

from hftransfer._client.client import AsyncClient
from hftransfer._hub_compat.cache import read_tree, write_tree
from hftransfer._hub_compat.cache_sink import HubCacheSink
from hftransfer._hub_compat.local_dir_sink import LocalDirSink
from hftransfer._hub_compat.progress import HubProgress
from hftransfer._hub_compat.request import HubRequest
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry

__all__ = ("HubSession",)


class HubSession:
    """The requests of one download: first about the files, then for them.

    Args:
        request: what is wanted.
        progress: told about the transfer.
        has_copy: whether what is wanted is on the disk in some version. It may block.
    """

    def __init__(
        self, request: HubRequest, progress: HubProgress, has_copy: Callable[[], bool]
    ) -> None:
        self._has_copy = has_copy
        self._request = request
        self._client = AsyncClient(request.options, observer=progress)
        self._asking = self._client
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> HubSession:
        await self._stack.enter_async_context(self._client)
        # Whoever has a copy on the disk waits for no second try to learn of a newer one.
        if await to_thread.run_sync(self._has_copy):
            once = replace(self._request.options, retry=RetryPolicy(attempts=1))
            self._asking = await self._stack.enter_async_context(AsyncClient(once))
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._stack.__aexit__(*failure)

    async def list(self, *, keep: bool) -> tuple[str, Sequence[Entry]]:
        """Return the commit and its files: from the disk where they are known.

        Args:
            keep: store the listing for the next time.
        """
        source = await self._asking.hub_source(self._request.location())
        commit = await source.resolve()
        path = self._request.tree_path(commit)
        known: Sequence[Entry] | None = await to_thread.run_sync(read_tree, path)
        if known is not None:
            return commit, known
        entries = await source.list()
        if keep:
            await to_thread.run_sync(write_tree, path, entries)
        return commit, entries

    async def find(self, path: str) -> tuple[str, Entry]:
        """Return the commit and its file `path`: from the disk if the commit's listing is there."""
        commit = self._request.pinned
        if commit is not None:
            known = await to_thread.run_sync(read_tree, self._request.tree_path(commit))
            for entry in known or []:
                if entry.path == path:
                    return commit, entry
        source = await self._asking.hub_source(self._request.location())
        entry = await source.find(path)
        assert source.commit is not None  # `find` learns it
        return source.commit, entry

    async def fetch(self, commit: str, entries: Sequence[Entry]) -> None:
        """Bring `entries` to where the request wants them."""
        request = self._request
        await to_thread.run_sync(request.remember_ref, commit)
        if not entries:
            return
        source = await self._client.hub_source(request.location(commit))
        await source.resolve()
        options, force = request.options, request.force
        sink: HubCacheSink | LocalDirSink
        if request.local_dir is None:
            sink = HubCacheSink(request.repo, commit, options, force=force)
        else:
            sink = LocalDirSink(request.local_dir, request.repo, commit, options, force=force)
        await self._client.transfer(source, [sink], entries=entries)
