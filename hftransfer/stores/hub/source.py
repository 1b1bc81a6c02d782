"""Repositories on the Hugging Face Hub, as a source.

One request resolves the revision to a commit, one per thousand files lists sizes and
digests, one per file resolves where its bytes lie, at most. No file costs a HEAD.

What is known of the wire (huggingface_hub's client and its issues, see
https://huggingface.co/docs/huggingface_hub): ``resolve`` answers 302 to a signed URL on
another host for LFS and Xet files, 307 to a cache on the same host for others, or 200.
It is asked without a Range header, since a URL signed for a ranged request can be locked
to that range. A signed URL serves any range for about an hour, is used byte for byte and
shared by all chunks of its file; a refused or expiring one is replaced once for all of
them. Authorization goes to the Hub's own origin and nowhere else.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import anyio

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import Digest
from hftransfer._core.streams import ByteStream
from hftransfer._http.client import HttpClient
from hftransfer._http.status import is_redirect, status_error
from hftransfer._io.retry import retrying
from hftransfer.errors import (
    AccessError,
    ExpiredError,
    NotFoundError,
    RangeNotSupportedError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    TransferError,
    redact,
)
from hftransfer.locations import HubLocation, safe_path
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry
from hftransfer.stores.hub.metadata import described_file, hub_error, url_lifetime
from hftransfer.stores.hub.url_guess import CacheAddresses

__all__ = ("HubSource",)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*rel="?next"?')
_MAX_HOPS = 20
# A fresh URL refused this often in a row is refused for good.
_MAX_REFUSALS = 2


@dataclass
class _Place:
    """Where one file's bytes lie, shared by its chunks."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    url: str = ""
    expires: float = 0.0
    refusals: int = 0


class HubSource:
    """All files of a repository at one revision, or of a folder of it, or one file.

    Args:
        wire: carries the requests.
        location: what to read.
        endpoint: base URL of the Hub.
        headers: for requests to the Hub's origin alone (authorization, user agent).
        retry: for listing and resolving; reading is tried again by the engine.
    """

    def __init__(
        self,
        wire: HttpClient,
        location: HubLocation,
        *,
        endpoint: str,
        headers: Mapping[str, str],
        retry: RetryPolicy,
    ) -> None:
        self._wire = wire
        self._where = location
        self._endpoint = endpoint.rstrip("/")
        self._origin = urlsplit(self._endpoint)[:2]
        self._headers = dict(headers)
        self._retry = retry
        self._places: dict[str, _Place] = {}
        self._addresses = CacheAddresses()
        self._guessed: set[str] = set()
        """Paths that were asked for where they were guessed to be."""
        self.commit: str | None = None
        self.single = False
        """True once `list` found that the location is one file."""

    @property
    def location(self) -> str:
        return str(self._where)

    async def resolve(self) -> str:
        """Return the commit of the revision; a revision that is a commit costs no request.

        Raises:
            NotFoundError: if the repository or the revision does not exist.
            AccessError: if it may not be read.
        """
        if self.commit is None:
            revision = self._where.revision or "main"
            if _COMMIT.fullmatch(revision):
                self.commit = revision
            else:
                url = f"{self._api}/revision/{quote(revision, safe='')}"
                answer = await self._api_get(url)
                self.commit = str(_json(answer)["sha"])
        return self.commit

    async def list(self) -> Sequence[Entry]:
        commit = await self.resolve()
        url: str | None = f"{self._api}/tree/{commit}?recursive=true&expand=false"
        entries = []
        while url is not None:
            answer = await self._api_get(url)
            entries += [
                found
                for item in _json(answer)
                if item.get("type") == "file" and (found := self._entry(item)) is not None
            ]
            following = _NEXT.search(answer.headers.get("Link", ""))
            # A mirror may pass on its upstream's Link: only the query is taken from it.
            url = self._own(urljoin(url, following[1])) if following else None
        if not entries and self._where.path:
            raise NotFoundError(f"{self.location}: no such file or folder at commit {commit}")
        return entries

    def _entry(self, item: Mapping[str, Any]) -> Entry | None:
        """Return the entry of a tree item, or None if it is not below the location."""
        path = safe_path(str(item["path"]))
        wanted = self._where.path
        relative = path
        if wanted and path == wanted:
            self.single = True
            relative = path.rpartition("/")[2]
        elif wanted:
            if not path.startswith(f"{wanted}/"):
                return None
            relative = path[len(wanted) + 1 :]
        properties = {"repo-path": path, "blob-id": str(item["oid"])}
        if lfs := item.get("lfs"):
            digest = Digest("sha256", str(lfs["oid"]))
            properties |= {"lfs-sha256": str(lfs["oid"]), "lfs-size": str(lfs["size"])}
        else:
            digest = Digest("git-sha1", str(item["oid"]))
        if xet := item.get("xetHash"):
            properties["xet-hash"] = str(xet)
        return Entry(
            path=relative,
            size=int(item["size"]),
            digest=digest,
            etag=digest.value,
            properties=properties,
        )

    async def find(self, path: str) -> Entry:
        """Return the file `path` of the repository, and learn the commit, without a listing.

        A listing costs a request per thousand files, this one HEAD or two.

        Raises:
            NotFoundError: if there is no such repository, revision or file.
            AccessError: if it may not be read.
            RejectedError: if the answer lacks what is needed, as behind some proxies.
        """

        async def ask() -> tuple[str, Entry]:
            answers, _ = await self._ask_hub(
                self._resolve_url(Entry(path=path, size=0)), partial(self._wire.request, "HEAD")
            )
            return described_file(path, answers)

        self.commit, entry = await retrying(ask, self._retry)
        return entry

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        if span.limit == entry.size and not span.filled:
            await self._read_whole(entry, span)
            return
        place = self._place(entry)
        url = await self._locate(entry, place)
        try:
            redirect = await self._wire.fill(
                url, span, size=entry.size, headers=self._headers_for(url)
            )
        except (AccessError, NotFoundError) as error:
            raise self._refused(entry, place, url, error) from error
        if redirect is not None:
            raise self._refused(entry, place, url, _unexpected(redirect))
        place.refusals = 0

    async def _read_whole(self, entry: Entry, span: ByteRangeBuffer) -> None:
        """Read a small file without a Range, from where it is or along the Hub's redirects."""
        if await self._read_guessed(entry, span):
            return
        found = self._resolve_url(entry)

        async def read(url: str) -> Response | None:
            nonlocal found
            found = url
            try:
                return await self._fill_whole(url, entry, span)
            except (AccessError, NotFoundError, RejectedError) as error:
                raise self._explained(error) from error

        await _follow(found, read)
        if entry.digest is not None and self._is_own(found):
            path = entry.properties.get("repo-path", entry.path)
            self._addresses.observe(found, path, entry.digest.value)

    async def _read_guessed(self, entry: Entry, span: ByteRangeBuffer) -> bool:
        """Read a file from where others have shown it to be; return whether that worked."""
        path = entry.properties.get("repo-path", entry.path)
        # Asked for again, it was not what it should have been.
        if entry.digest is None or "lfs-sha256" in entry.properties or path in self._guessed:
            return False
        url = self._addresses.guess(path, entry.digest.value)
        if url is None:
            return False
        self._guessed.add(path)
        try:
            redirect = await self._fill_whole(url, entry, span)
        except (AccessError, NotFoundError, RejectedError, SourceChangedError):
            self._addresses.abandon()
            return False
        if redirect is not None:
            self._addresses.abandon()
        return redirect is None

    async def _fill_whole(self, url: str, entry: Entry, span: ByteRangeBuffer) -> Response | None:
        headers = self._headers_for(url)
        return await self._wire.fill(url, span, size=entry.size, headers=headers, ranged=False)

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        url = self._resolve_url(entry)
        for _ in range(_MAX_HOPS):
            async with AsyncExitStack() as stack:
                # What the caller's own block raises is no refusal of the Hub's.
                try:
                    body = await stack.enter_async_context(
                        self._wire.stream(url, size=entry.size, headers=self._headers_for(url))
                    )
                except (AccessError, NotFoundError, RejectedError) as error:
                    raise self._explained(error) from error
                if not isinstance(body, Response):
                    yield body
                    return
                url = urljoin(url, body.headers["Location"])
        raise _endless(url)

    async def _locate(self, entry: Entry, place: _Place) -> str:
        """Return the URL of a file's bytes, resolving it once for all chunks that wait."""
        async with place.lock:
            if not place.url or time.time() >= place.expires:
                place.url, lifetime = await retrying(
                    lambda: self._find(self._resolve_url(entry)), self._retry
                )
                place.expires = time.time() + lifetime
            return place.url

    async def _find(self, url: str) -> tuple[str, float]:
        """Return the URL behind a file's ``resolve`` and its lifetime in seconds."""
        _, url = await self._ask_hub(url, self._wire.get_headers)
        return url, url_lifetime(url)

    async def _ask_hub(
        self, url: str, send: Callable[..., Awaitable[Response]]
    ) -> tuple[Sequence[Response], str]:
        """Follow redirects as long as they stay on the Hub; return its answers and the last URL.

        Args:
            url: on the Hub.
            send: called with a URL and ``headers``.
        """
        answers: deque[Response] = deque()
        while len(answers) < _MAX_HOPS:
            answer = await send(url, headers=self._headers_for(url))
            answers.append(answer)
            if not is_redirect(answer):
                if answer.status != 200:
                    raise self._explained(status_error(answer))
                return answers, url
            url = urljoin(url, answer.headers["Location"])
            if not self._is_own(url):
                return answers, url
        raise _endless(url)

    def _refused(
        self, entry: Entry, place: _Place, url: str, error: TransferError
    ) -> TransferError:
        """Forget a refused URL; return the error that makes the engine do the right thing next."""
        if self._is_own(url) and isinstance(error, AccessError | NotFoundError):
            return self._explained(error)
        if place.url == url:
            place.url = ""
            place.refusals += 1
        if place.refusals > _MAX_REFUSALS:
            # Content networks have refused valid ranges before; the whole body is still served.
            return RangeNotSupportedError(
                f"{self.location}: {entry.path}: ranges of it are refused: {error}",
                response=error.response,
            )
        return ExpiredError(
            f"{self.location}: {entry.path}: its signed URL was refused",
            response=error.response,
            retry_after=0.0,
        )

    def _place(self, entry: Entry) -> _Place:
        return self._places.setdefault(entry.path, _Place())

    @property
    def _api(self) -> str:
        return f"{self._endpoint}/api/{self._where.repo_type}s/{self._where.repo_id}"

    def _resolve_url(self, entry: Entry) -> str:
        prefix = "" if self._where.repo_type == "model" else f"{self._where.repo_type}s/"
        revision = quote(self.commit or self._where.revision or "main", safe="")
        path = quote(entry.properties.get("repo-path", entry.path))
        return f"{self._endpoint}/{prefix}{self._where.repo_id}/resolve/{revision}/{path}"

    def _is_own(self, url: str) -> bool:
        return urlsplit(url)[:2] == self._origin

    def _own(self, url: str) -> str:
        parts = urlsplit(url)
        return (
            url
            if self._is_own(url)
            else f"{self._api.partition('/api/')[0]}{parts.path}"
            + (f"?{parts.query}" if parts.query else "")
        )

    def _headers_for(self, url: str) -> Mapping[str, str]:
        return self._headers if self._is_own(url) else {}

    async def _api_get(self, url: str) -> Response:
        """GET from the Hub's API, following redirects of renamed repositories on its origin."""

        async def ask(target: str) -> Response:
            answer = await self._wire.request("GET", target, headers=self._headers_for(target))
            if answer.status != 200 and not is_redirect(answer):
                raise self._explained(status_error(answer))
            return answer

        answer = await retrying(lambda: _follow(url, ask), self._retry)
        assert answer is not None  # `ask` always has one
        return answer

    def _explained(self, error: TransferError) -> TransferError:
        return hub_error(error, self._where, self._endpoint)


def _json(answer: Response) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError as error:
        # A captive portal or an error page in place of the API.
        raise ServerError(f"{redact(answer.url)}: the answer is not JSON", response=answer) from (
            error
        )


async def _follow(url: str, send: Callable[[str], Awaitable[Response | None]]) -> Response | None:
    """Send to `url`, then wherever it redirects; return the first answer that does not."""
    for _ in range(_MAX_HOPS):
        answer = await send(url)
        if answer is None or not is_redirect(answer):
            return answer
        url = urljoin(url, answer.headers["Location"])
    raise _endless(url)


def _endless(url: str) -> RejectedError:
    return RejectedError(f"{redact(url)}: more than {_MAX_HOPS} redirects")


def _unexpected(redirect: Response) -> TransferError:
    return RejectedError(f"{redact(redirect.url)}: redirected again", response=redirect)
