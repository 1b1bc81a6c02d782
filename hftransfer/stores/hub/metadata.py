"""What the Hub's responses mean: entries, pages, URL lifetimes and errors. Pure, no I/O.

``HEAD resolve`` names a file's commit in ``X-Repo-Commit``. For an LFS file ``X-Linked-Etag`` is
the sha256 and ``X-Linked-Size`` the size; for other files ``ETag`` is the git blob sha1, and
``Content-Length`` the size, of the response that is not a redirect. Only responses of the Hub
count: etags of the CDN are not digests.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from hftransfer._core.digests import Digest
from hftransfer._core.units import parse_count
from hftransfer._http.status import is_redirect
from hftransfer.errors import (
    AccessError,
    NotFoundError,
    RejectedError,
    Response,
    TransferError,
    redact,
)
from hftransfer.locations import HubLocation
from hftransfer.stores.base import Entry

__all__ = (
    "entry_from_head",
    "entry_from_tree",
    "explain_hub_error",
    "next_page",
    "repo_path",
    "url_lifetime",
)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_NEXT_LINK = re.compile(r'<([^>]+)>\s*;[^,]*rel="?next"?')
# Lifetime in seconds of a signed URL that does not say when it expires.
_DEFAULT_LIFETIME = 50 * 60.0
# Seconds before its expiry at which a URL counts as expired, so that requests arrive in time.
_EXPIRY_MARGIN = 60.0


def repo_path(entry: Entry) -> str:
    """Return the path of `entry` from the root of its repository."""
    return entry.properties.get("repo-path", entry.path)


def entry_from_tree(item: Mapping[str, Any], root: str) -> Entry | None:
    """Return the entry of one file of a tree listing, or None if it is not below `root`.

    Args:
        item: of type ``file``, from the JSON of ``/api/models/…/tree/…``.
        root: folder or file of the repository; empty for all of it. Entry paths are relative
            to a folder; a file is listed under its name.
    """
    path = str(item["path"])
    relative = path
    if root and path == root:
        relative = path.rpartition("/")[2]
    elif root:
        if not path.startswith(f"{root}/"):
            return None
        relative = path[len(root) + 1 :]
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


def next_page(url: str, response: Response, endpoint: str) -> str | None:
    """Return the URL of the next page of a listing, or None after the last page.

    A mirror may forward the ``Link`` of its upstream, which names another host. Such a link
    is rewritten to `endpoint`: the token must not be sent to another host.

    Args:
        url: of this page.
        response: this page.
        endpoint: base URL of the Hub, without a slash at the end.

    Raises:
        RejectedError: if the link is not a URL.
    """
    link = _NEXT_LINK.search(response.headers.get("Link", ""))
    if link is None:
        return None
    try:
        following: str = urljoin(url, link[1])
        parts = urlsplit(following)
    except ValueError as error:
        raise RejectedError(
            f"{redact(url)}: the link to the next page of the listing is not a URL",
            response=response,
        ) from error
    if parts[:2] == urlsplit(endpoint)[:2]:
        return following
    return f"{endpoint}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def entry_from_head(path: str, responses: Sequence[Response]) -> tuple[str, Entry]:
    """Return the commit and the entry of a file from the Hub's responses to HEAD.

    Args:
        path: of the file in the repository.
        responses: the redirects in order, then the final response, at least one.

    Raises:
        RejectedError: if commit, etag or size is missing.
    """
    last = responses[-1]
    final_headers = {} if is_redirect(last) else last.headers
    etag = _first(responses, "X-Linked-Etag") or final_headers.get("ETag", "")
    size = _first(responses, "X-Linked-Size") or final_headers.get("Content-Length", "")
    commit = _first(responses, "X-Repo-Commit")
    digest = _digest(etag.removeprefix("W/").strip('"'))
    count = parse_count(size)
    if not _SHA1.fullmatch(commit) or digest is None or count is None:
        raise RejectedError(
            f"{redact(last.url)}: the response does not name commit, etag and size of {path!r}: "
            "is there a proxy that removes headers?"
        )
    return commit, Entry(path=path, size=count, digest=digest, etag=digest.value)


def _first(responses: Sequence[Response], header: str) -> str:
    return next((each.headers[header] for each in responses if header in each.headers), "")


def _digest(etag: str) -> Digest | None:
    if _SHA256.fullmatch(etag):
        return Digest("sha256", etag)
    return Digest("git-sha1", etag) if _SHA1.fullmatch(etag) else None


def url_lifetime(url: str) -> float:
    """Return for how many more seconds a signed URL may be used.

    Reads ``Expires`` (CloudFront, seconds since the epoch) and ``X-Amz-Expires`` (S3, seconds
    from now). Negative if the URL has expired.
    """
    query = parse_qs(urlsplit(url).query)
    try:
        if "Expires" in query:
            return float(query["Expires"][0]) - time.time() - _EXPIRY_MARGIN
        if "X-Amz-Expires" in query:
            return float(query["X-Amz-Expires"][0]) - _EXPIRY_MARGIN
    except ValueError:
        pass  # not a number: the expiry is unknown
    return _DEFAULT_LIFETIME


def explain_hub_error(error: TransferError, location: HubLocation, endpoint: str) -> TransferError:
    """Return a more specific error if the Hub's headers give the reason (``X-Error-Code``).

    Args:
        error: as derived from the status; returned unchanged if there is nothing to add.
        location: what was requested.
        endpoint: base URL of the Hub, for the message.
    """
    response = error.response
    if response is None:
        return error
    code = response.headers.get("X-Error-Code", "")
    message = response.headers.get("X-Error-Message", "")
    repo = f"{location.repo_type} {location.repo_id!r} on {redact(endpoint)}"
    if code == "GatedRepo":
        return AccessError(
            f"access to {repo} is restricted: accept its conditions on its page and give a token "
            f"of that account (HF_TOKEN or `hf auth login`). {message}".rstrip(),
            response=response,
        )
    if code == "RevisionNotFound":
        return NotFoundError(
            f"{repo} has no revision {location.revision or 'main'!r}", response=response
        )
    if code == "EntryNotFound":
        return NotFoundError(f"{error} (no such file in {repo})", response=response)
    if message == "Access to this resource is disabled.":
        return AccessError(f"{repo} is disabled", response=response)
    # For a private repository the Hub responds 401 without a token, and 404 with one that may
    # not read it. A 401 for an invalid token has "Invalid" in its message.
    if code == "RepoNotFound" or (response.status == 401 and "Invalid" not in message):
        return NotFoundError(
            f"there is no {repo}, or it is private and the token given, if any, may not read it",
            response=response,
        )
    return error
