"""The requests of one download: first for metadata, then for the content of files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from hftransfer._client.client import AsyncClient
from hftransfer._client.selection import started
from hftransfer._hub_compat.cache_sink import HubCacheSink
from hftransfer._hub_compat.local_dir_sink import LocalDirSink
from hftransfer._hub_compat.progress import HubProgress
from hftransfer._hub_compat.request import DownloadRequest
from hftransfer._hub_compat.tree import CachedTree, TreeWriter
from hftransfer.errors import TransferError
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry, ListingPage

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from hftransfer.stores.hub.source import HubSource

__all__ = ("DownloadSession",)

# Seconds for which the Hub is asked for a file if other files of the revision are on the disk.
# huggingface_hub asks for about as long: six attempts, with 1 to 8 s between them.
_OFFLINE_DEADLINE = 20.0


_PAGE_SIZE = 1000


class DownloadSession:
    """The clients of one download, and what it asks of the Hub. Use as an async context manager.

    If a copy is on the disk, requests for metadata are made by a second client that does not
    retry: without the Hub the caller gets that copy after the first failure. If other files of
    the revision are there, it retries for `_OFFLINE_DEADLINE` seconds: whoever works offline asks
    for optional files, too, and waits for each of them.

    Args:
        request: the arguments of the download.
        progress: the observer of the transfer.
        has_copy_on_disk: called once in a worker thread; returns True if the disk has what is
            requested, at the last known commit.
    """

    def __init__(
        self, request: DownloadRequest, progress: HubProgress, has_copy_on_disk: Callable[[], bool]
    ) -> None:
        self._has_copy_on_disk = has_copy_on_disk
        self._request = request
        self._client = AsyncClient(request.options, observer=progress)
        self._metadata_client = self._client
        self._stack = AsyncExitStack()
        self.listing_error: TransferError | None = None
        """The error of `list_files`, or of the pages that it returned."""

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._client)
        retry = await to_thread.run_sync(self._metadata_retry)
        if retry != self._request.options.retry:
            client = AsyncClient(replace(self._request.options, retry=retry))
            self._metadata_client = await self._stack.enter_async_context(client)
        return self

    def _metadata_retry(self) -> RetryPolicy:
        """Return the limits on retries of requests for metadata. Blocks: looks at the disk."""
        retry = self._request.options.retry
        if self._has_copy_on_disk():
            return replace(retry, attempts=1)
        if self._request.cached_commit is not None:
            return replace(retry, deadline=min(retry.deadline, _OFFLINE_DEADLINE))
        return retry

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def list_files(
        self, *, cache_listing: bool
    ) -> tuple[str, AsyncGenerator[ListingPage, None]]:
        """Return the commit of the requested revision, and the pages of its files.

        The listing is read from the disk if it is cached there: only the commit is requested.
        Otherwise the first page has arrived when this returns.

        Args:
            cache_listing: write a requested listing to the disk, once it is complete.
        """
        try:
            source = await self._metadata_client.hub_source(self._request.location())
            commit = await source.resolve()
            path = self._request.tree_path(commit)
            cached = await to_thread.run_sync(CachedTree.open, path)
            if cached is not None:
                return commit, _pages_of_tree(cached)
            pages = self._requested_pages(source, TreeWriter(path) if cache_listing else None)
            return commit, await started(pages)
        except TransferError as error:
            self.listing_error = error
            raise

    async def _requested_pages(
        self, source: HubSource, writer: TreeWriter | None
    ) -> AsyncGenerator[ListingPage, None]:
        try:
            async for page in source.pages():
                if writer is not None:
                    await to_thread.run_sync(writer.add, page.entries)
                    if page.is_last:
                        await to_thread.run_sync(writer.commit)
                        writer = None
                yield page
        except TransferError as error:
            self.listing_error = error
            raise
        finally:
            if writer is not None:
                writer.abandon()

    async def find_file(self, path: str) -> tuple[str, Entry]:
        """Return the commit of the requested revision and its file `path`.

        For a pinned commit whose listing is cached no request is made.
        """
        commit = self._request.pinned_commit
        if commit is not None:
            entry = await to_thread.run_sync(_find_in_tree, self._request.tree_path(commit), path)
            if entry is not None:
                return commit, entry
        source = await self._metadata_client.hub_source(self._request.location())
        entry = await source.find(path)
        assert source.commit is not None  # set by `find`
        return source.commit, entry

    async def download(
        self, commit: str, files: Sequence[Entry] | AsyncGenerator[ListingPage, None]
    ) -> None:
        """Download `files` of `commit` to the cache or the ``local_dir``; record the ref."""
        request = self._request
        await to_thread.run_sync(request.record_ref, commit)
        source = await self._client.hub_source(request.location(commit))
        await source.resolve()
        options, force = request.options, request.force
        sink: HubCacheSink | LocalDirSink
        if request.local_dir is None:
            sink = HubCacheSink(request.repo, commit, options, force=force)
        else:
            sink = LocalDirSink(
                request.local_dir,
                request.repo,
                commit,
                options,
                self._client.buffers,
                force=force,
            )
        await self._client.transfer(source, [sink], entries=files, keep_manifest=False)


async def _pages_of_tree(tree: CachedTree) -> AsyncGenerator[ListingPage, None]:
    entries = iter(tree)
    is_last = False
    while not is_last:
        page = await to_thread.run_sync(_take, entries)
        is_last = len(page) < _PAGE_SIZE
        yield ListingPage(page, is_last)
    tree.close()


def _take(entries: Iterator[Entry]) -> Sequence[Entry]:
    return list(islice(entries, _PAGE_SIZE))


def _find_in_tree(tree_path: Path, path: str) -> Entry | None:
    tree = CachedTree.open(tree_path)
    return None if tree is None else next((entry for entry in tree if entry.path == path), None)
