"""What the Hub says about one file without its listing: commit, size and digest.

A listing has one request per thousand files of the repository, too many for the sake of
one of them. ``HEAD resolve`` tells the same: ``X-Repo-Commit``, and for LFS files
``X-Linked-Etag`` (sha256) and ``X-Linked-Size``; for others ``ETag`` (git blob sha1) and
``Content-Length`` of the answer that is no redirect. Only answers of the Hub count: the
content network has etags of its own that are no digests.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin

from hftransfer._digests import Digest
from hftransfer._retry import retrying
from hftransfer._wire import is_redirect, status_error
from hftransfer.errors import RejectedError, Response
from hftransfer.stores.base import Entry
from hftransfer.stores.hub import HubSource

__all__ = ("locate_file",)

_MAX_HOPS = 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


async def locate_file(source: HubSource, path: str) -> tuple[str, Entry]:
    """Return the commit of the source's revision and the file `path` of it.

    Raises:
        NotFoundError: if there is no such repository, revision or file.
        AccessError: if it may not be read.
        RejectedError: if the answer lacks what is needed, as behind some proxies.
        TransientError: if the Hub cannot be reached.
    """
    return await retrying(lambda: _ask(source, path), source._retry)


async def _ask(source: HubSource, path: str) -> tuple[str, Entry]:
    url = source._resolve_url(Entry(path=path, size=0))
    seen: dict[str, str] = {}
    for _ in range(_MAX_HOPS):
        headers = {**source._headers_for(url), "Accept-Encoding": "identity"}
        answer = await source._wire.request("HEAD", url, headers=headers)
        if answer.status >= 400:
            raise source._explained(status_error(answer))
        for name in ("X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size"):
            if name in answer.headers:
                seen.setdefault(name, answer.headers[name])
        if not is_redirect(answer):
            return _described(answer, path, seen)
        url = urljoin(url, answer.headers["Location"])
        if not source._is_own(url):
            return _described(answer, path, seen)
    raise RejectedError(f"{source.location}: {path}: more than {_MAX_HOPS} redirects")


def _described(answer: Response, path: str, seen: dict[str, str]) -> tuple[str, Entry]:
    own = {} if is_redirect(answer) else answer.headers
    etag = _normalized(seen.get("X-Linked-Etag") or own.get("ETag", ""))
    size = seen.get("X-Linked-Size") or own.get("Content-Length", "")
    commit = seen.get("X-Repo-Commit", "")
    digest = _digest(etag)
    if not _SHA1.fullmatch(commit) or digest is None or not size.isdecimal():
        raise RejectedError(
            f"{answer.url}: the answer does not name commit, etag and size of {path!r}: "
            "is there a proxy that removes headers?"
        )
    entry = Entry(path=path, size=int(size), digest=digest, etag=digest.value)
    return commit, entry


def _normalized(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _digest(etag: str) -> Digest | None:
    if _SHA256.fullmatch(etag):
        return Digest("sha256", etag)
    return Digest("git-sha1", etag) if _SHA1.fullmatch(etag) else None
