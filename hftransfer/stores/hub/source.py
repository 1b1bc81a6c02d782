"""Repositories on the Hugging Face Hub, as a source.

Requests: at most one resolves the revision to a commit, one per thousand files lists sizes and
digests, and at most one per file resolves the URL of its content. Listed files need no HEAD.

Protocol (as huggingface_hub's client and issues show it, see
https://huggingface.co/docs/huggingface_hub): ``resolve`` responds 302 to a signed URL on another
host for LFS and Xet files, 307 to a cache on the same host for other files, or 200 with the file.
It is requested without a Range header, because a URL signed for a ranged request can be bound
to that range. A signed URL serves any range for about an hour and must be used byte for byte
as received. Authorization is sent to the Hub's own origin only.

What happens after an error:

- Retry: listings are repeated here after a `TransientError`, as the `RetryPolicy` says. Reads of
  content, with the request that resolves their URL, are repeated by the engine, which calls
  `fill` again. No retry is nested in another.
- Recover: when a signed URL is rejected or about to expire, it is resolved again, once for all
  chunks of the file; `fill` raises `ExpiredError`, which the engine retries without a delay. A
  guessed URL (`url_guess`) that fails is replaced by ``resolve`` within the same `fill`.
- Restart: when even fresh URLs are rejected `_MAX_REJECTIONS` + 1 times in a row, `fill` raises
  `RangeNotSupportedError`, and the engine reads the whole file again with `stream`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, MutableSequence, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar
from urllib.parse import quote, urlsplit

import anyio

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import Digest
from hftransfer._core.streams import ByteStream
from hftransfer._http.client import HttpClient
from hftransfer._http.status import is_redirect, redirect_target, status_error
from hftransfer._io.retry import retrying
from hftransfer.errors import (
    AccessError,
    ExpiredError,
    NotFoundError,
    RangeNotSupportedError,
    RejectedError,
    Response,
    SourceChangedError,
    TransferError,
    redact,
)
from hftransfer.locations import HubLocation
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry, ListingPage
from hftransfer.stores.hub.api_json import COMMIT, commit_of, tree_items
from hftransfer.stores.hub.metadata import (
    entry_from_head,
    entry_from_tree,
    explain_hub_error,
    next_page,
    repo_path,
    url_lifetime,
)
from hftransfer.stores.hub.url_guess import UrlGuesser

__all__ = ("HubSource",)

_MAX_REDIRECTS = 20
# CDNs have rejected valid ranges while they still served the whole body. After more
# rejections in a row than this, ranges of the file are given up.
_MAX_REJECTIONS = 2
# Files of which the source remembers URLs: many times as many as are moved at a time. A file that
# is forgotten while it is moved costs one more request.
_MAX_REMEMBERED_FILES = 4096

T = TypeVar("T")


@dataclass
class _ContentUrl:
    """The URL that serves ranges of one file, shared by its chunks."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    """Held while the URL is resolved, so that concurrent chunks cause one request."""
    url: str = ""
    """Empty before it is resolved, and after a rejection."""
    expires: float = 0.0
    """Time from which it must not be used, seconds of `time.time`."""
    rejections: int = 0
    """URLs that were rejected since the last range was read."""

    @property
    def is_usable(self) -> bool:
        return bool(self.url) and time.time() < self.expires

    def reject(self, url: str) -> None:
        """Discard `url`, unless another chunk has done so already."""
        if self.url == url:
            self.url = ""
            self.rejections += 1


class HubSource:
    """All files of a repository at one revision, or of a folder of it, or one file.

    Args:
        client: sends the requests.
        location: what to read.
        endpoint: base URL of the Hub.
        headers: sent to the Hub's origin only (authorization, user agent).
        retry: for metadata (revision, listing, HEAD); the engine retries reads of content.
    """

    def __init__(
        self,
        client: HttpClient,
        location: HubLocation,
        *,
        endpoint: str,
        headers: Mapping[str, str],
        retry: RetryPolicy,
    ) -> None:
        self._client = client
        self._location = location
        self._endpoint = endpoint.rstrip("/")
        self._origin = urlsplit(self._endpoint)[:2]
        self._headers = dict(headers)
        self._retry = retry
        self._content_urls: dict[str, _ContentUrl] = {}
        """By path, of the files that were read last."""
        self._url_guesser = UrlGuesser()
        self._guessed_paths: dict[str, None] = {}
        """Repository paths that were requested at a guessed URL, each at most once: a file
        whose content turned out wrong is resolved when the engine reads it again."""
        self.commit: str | None = None
        self.single = False
        """True once `list` found that the location is one file."""

    @property
    def location(self) -> str:
        return str(self._location)

    # Listing and metadata.

    async def resolve(self) -> str:
        """Return the commit of the revision; a revision that is a commit costs no request.

        Raises:
            NotFoundError: if the repository or the revision does not exist.
            AccessError: if it may not be read.
        """
        if self.commit is None:
            revision = self._location.revision or "main"
            if COMMIT.fullmatch(revision):
                self.commit = revision
            else:
                url = f"{self._api_url}/revision/{quote(revision, safe='')}"
                response = await self._get_json(url)
                self.commit = commit_of(response)
        return self.commit

    async def list(self) -> Sequence[Entry]:
        return [entry async for page in self.pages() for entry in page.entries]

    async def pages(self) -> AsyncIterator[ListingPage]:
        """Yield what `list` returns, a page of the Hub's listing at a time.

        Of a folder or a file only pages that have files of it are yielded, so that `single` is
        known with the first one.
        """
        commit = await self.resolve()
        root = self._location.path
        url: str | None = f"{self._api_url}/tree/{commit}?recursive=true&expand=false"
        is_empty = True
        pages: set[str] = set()
        while url is not None:
            if url in pages:
                raise RejectedError(f"{redact(url)}: the listing repeats this page without end")
            pages.add(url)
            response = await self._get_json(url)
            url = next_page(url, response, self._endpoint)
            entries = []
            for item in tree_items(response):
                if item.get("type") != "file":
                    continue
                entry = entry_from_tree(item, root)
                if entry is not None:
                    entries.append(entry)
                    self.single = self.single or repo_path(entry) == root
            if url is None and is_empty and not entries and root:
                raise NotFoundError(f"{self.location}: no such file or folder at commit {commit}")
            if entries or url is None:
                is_empty = False
                yield ListingPage(entries, is_last=url is None)

    async def find(self, path: str) -> Entry:
        """Return the entry of one file and set `commit`, without a listing.

        Costs one or two HEAD requests; a listing costs one request per thousand files.

        Args:
            path: from the root of the repository.

        Raises:
            NotFoundError: if there is no such repository, revision or file.
            AccessError: if it may not be read.
            RejectedError: if the response lacks commit, etag or size, as behind some proxies.
        """
        self.commit, entry = await retrying(partial(self._find_once, path), self._retry)
        return entry

    async def _find_once(self, path: str) -> tuple[str, Entry]:
        responses, _ = await self._follow_on_hub("HEAD", self._resolve_url(path))
        return entry_from_head(path, responses)

    # Reading content.

    async def received_digest(self, entry: Entry) -> Digest | None:
        return None  # the listing has every digest that the Hub states

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        if buffer.limit == entry.size and not buffer.filled:
            await self._fill_whole(entry, buffer)
        else:
            await self._fill_range(entry, buffer)

    async def _fill_range(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        """Read a range from the file's content URL, which all chunks share."""
        content_url = self._content_urls.get(entry.path)
        if content_url is None:
            content_url = _ContentUrl()
            _set_bounded(self._content_urls, entry.path, content_url)
        url = await self._resolved(entry, content_url)
        try:
            redirect = await self._client.fill(
                url, buffer, size=entry.size, headers=self._headers_for(url)
            )
        except (AccessError, NotFoundError) as error:
            raise self._after_rejection(entry, content_url, url, error) from error
        if redirect is not None:
            # Without the response, whose Location may be signed.
            unexpected = RejectedError(f"{redact(redirect.url)}: redirected again")
            raise self._after_rejection(entry, content_url, url, unexpected)
        content_url.rejections = 0

    def _after_rejection(
        self, entry: Entry, content_url: _ContentUrl, url: str, error: TransferError
    ) -> TransferError:
        """Discard a rejected URL; return the error that says how the engine goes on.

        Returns:
            An error that ends the transfer if the Hub itself denies access; `ExpiredError` to
            try a fresh URL; `RangeNotSupportedError` to restart the file as one stream.
        """
        if self._is_on_hub(url) and isinstance(error, AccessError | NotFoundError):
            return self._explain(error)
        content_url.reject(url)
        if content_url.rejections > _MAX_REJECTIONS:
            return RangeNotSupportedError(
                f"{self.location}: {entry.path}: ranges are rejected: {error}",
                response=error.response,
            )
        return ExpiredError(
            f"{self.location}: {entry.path}: the signed URL was rejected",
            response=error.response,
            retry_after=0.0,
        )

    async def _resolved(self, entry: Entry, content_url: _ContentUrl) -> str:
        """Return the URL of a file's content; resolve it, once for all chunks, if necessary."""
        async with content_url.lock:
            if not content_url.is_usable:
                url, lifetime = await self._resolve(entry)
                content_url.url, content_url.expires = url, time.time() + lifetime
            return content_url.url

    async def _resolve(self, entry: Entry) -> tuple[str, float]:
        """Return the URL to which ``resolve`` redirects, and its lifetime in seconds."""
        _, url = await self._follow_on_hub("GET", self._resolve_url(repo_path(entry)))
        return url, url_lifetime(url)

    async def _fill_whole(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        """Read a file of one chunk without a Range: at a guessed URL, or by ``resolve``."""
        if await self._fill_from_guess(entry, buffer):
            return
        url = await self._fill_following_redirects(entry, buffer)
        if entry.digest is not None and self._is_on_hub(url):
            self._url_guesser.observe(url, repo_path(entry), entry.digest.value)

    async def _fill_from_guess(self, entry: Entry, buffer: ByteRangeBuffer) -> bool:
        """Read a regular file at its guessed URL, if any; return whether that succeeded."""
        path = repo_path(entry)
        if entry.digest is None or "lfs-sha256" in entry.properties or path in self._guessed_paths:
            return False
        url = self._url_guesser.guess(path, entry.digest.value)
        if url is None:
            return False
        _set_bounded(self._guessed_paths, path, None)
        try:
            redirect = await self._fill_without_range(url, entry, buffer)
        except (AccessError, NotFoundError, RejectedError, SourceChangedError):
            self._url_guesser.disable()
            return False
        if redirect is not None:
            self._url_guesser.disable()
        return redirect is None

    async def _fill_following_redirects(self, entry: Entry, buffer: ByteRangeBuffer) -> str:
        """Read a file by ``resolve`` and its redirects; return the URL that served it."""
        url = self._resolve_url(repo_path(entry))
        for _ in range(_MAX_REDIRECTS):
            try:
                redirect = await self._fill_without_range(url, entry, buffer)
            except (AccessError, NotFoundError, RejectedError) as error:
                raise self._explain(error) from error
            if redirect is None:
                return url
            url = redirect_target(url, redirect)
        raise _too_many_redirects(url)

    async def _fill_without_range(
        self, url: str, entry: Entry, buffer: ByteRangeBuffer
    ) -> Response | None:
        """Read a whole body; return the redirect if there was one instead."""
        return await self._client.fill(
            url, buffer, size=entry.size, headers=self._headers_for(url), ranged=False
        )

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        url = self._resolve_url(repo_path(entry))
        for _ in range(_MAX_REDIRECTS):
            async with AsyncExitStack() as stack:
                # Only opening is inside the `try`: an error of the caller's block must pass.
                try:
                    body = await stack.enter_async_context(
                        self._client.stream(url, size=entry.size, headers=self._headers_for(url))
                    )
                except (AccessError, NotFoundError, RejectedError) as error:
                    raise self._explain(error) from error
                if not isinstance(body, Response):
                    yield body
                    return
                url = redirect_target(url, body)
        raise _too_many_redirects(url)

    # Requests to the Hub.

    async def _get_json(self, url: str) -> Response:
        """GET from the Hub's API, with retries."""
        return await retrying(partial(self._get_json_once, url), self._retry)

    async def _get_json_once(self, url: str) -> Response:
        # A renamed repository redirects to its new name.
        for _ in range(_MAX_REDIRECTS):
            response = await self._client.request("GET", url, headers=self._headers_for(url))
            if is_redirect(response):
                url = redirect_target(url, response)
            elif response.status != 200:
                raise self._explain(status_error(response))
            else:
                return response
        raise _too_many_redirects(url)

    async def _follow_on_hub(
        self, method: Literal["GET", "HEAD"], url: str
    ) -> tuple[Sequence[Response], str]:
        """Follow redirects while they stay on the Hub; bodies are not read.

        Returns:
            The Hub's responses in order, and the last URL: that of a final response of the Hub, or
            the first one on another host, which was not requested.
        """
        responses: MutableSequence[Response] = []
        while len(responses) < _MAX_REDIRECTS:
            headers = self._headers_for(url)
            if method == "HEAD":
                response = await self._client.request("HEAD", url, headers=headers)
            else:
                response = await self._client.get_headers(url, headers=headers)
            responses.append(response)
            if not is_redirect(response):
                if response.status != 200:
                    raise self._explain(status_error(response))
                return responses, url
            url = redirect_target(url, response)
            if not self._is_on_hub(url):
                return responses, url
        raise _too_many_redirects(url)

    @property
    def _api_url(self) -> str:
        return f"{self._endpoint}/api/{self._location.repo_type}s/{self._location.repo_id}"

    def _resolve_url(self, path: str) -> str:
        """Return the ``resolve`` URL of a file, whose path is from the repository's root."""
        repo_type = self._location.repo_type
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        revision = quote(self.commit or self._location.revision or "main", safe="")
        repo = f"{self._endpoint}/{prefix}{self._location.repo_id}"
        return f"{repo}/resolve/{revision}/{quote(path)}"

    def _is_on_hub(self, url: str) -> bool:
        return urlsplit(url)[:2] == self._origin

    def _headers_for(self, url: str) -> Mapping[str, str]:
        return self._headers if self._is_on_hub(url) else {}

    def _explain(self, error: TransferError) -> TransferError:
        return explain_hub_error(error, self._location, self._endpoint)


def _set_bounded(values: dict[str, T], path: str, value: T) -> None:
    """Set the value of a file, and forget that of the one that was set first if they are many."""
    if len(values) >= _MAX_REMEMBERED_FILES:
        del values[next(iter(values))]
    values[path] = value


def _too_many_redirects(url: str) -> RejectedError:
    return RejectedError(f"{redact(url)}: more than {_MAX_REDIRECTS} redirects")
