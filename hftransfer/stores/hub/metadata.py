"""What the Hub's answers mean: errors in its own terms, one file's headers, URL lifetimes.

Pure. ``HEAD resolve`` names a file's commit (``X-Repo-Commit``) and, for LFS files,
``X-Linked-Etag`` (sha256) and ``X-Linked-Size``; for others ``ETag`` (git blob sha1) and
``Content-Length`` of the answer that is no redirect. Only answers of the Hub count: the
content network has etags of its own that are no digests.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from hftransfer._core.digests import Digest
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

__all__ = ("described_file", "hub_error", "url_lifetime")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
# A signed URL that does not say when it expires is renewed after this long, seconds.
_DEFAULT_LIFETIME = 50 * 60.0
# Renewed so long before it expires that a request made now is answered in time, seconds.
_MARGIN = 60.0


def described_file(path: str, answers: Sequence[Response]) -> tuple[str, Entry]:
    """Return the commit and the entry of a file from the Hub's answers to HEAD, in order.

    Raises:
        RejectedError: if they lack what is needed.
    """
    last = answers[-1]
    own = {} if is_redirect(last) else last.headers
    etag = _first(answers, "X-Linked-Etag") or own.get("ETag", "")
    size = _first(answers, "X-Linked-Size") or own.get("Content-Length", "")
    commit = _first(answers, "X-Repo-Commit")
    digest = _digest(etag.removeprefix("W/").strip('"'))
    if not _SHA1.fullmatch(commit) or digest is None or not size.isdecimal():
        raise RejectedError(
            f"{redact(last.url)}: the answer does not name commit, etag and size of {path!r}: "
            "is there a proxy that removes headers?"
        )
    return commit, Entry(path=path, size=int(size), digest=digest, etag=digest.value)


def _first(answers: Sequence[Response], header: str) -> str:
    return next((a.headers[header] for a in answers if header in a.headers), "")


def _digest(etag: str) -> Digest | None:
    if _SHA256.fullmatch(etag):
        return Digest("sha256", etag)
    return Digest("git-sha1", etag) if _SHA1.fullmatch(etag) else None


def url_lifetime(url: str) -> float:
    """Return for how many seconds a signed URL may be used (CloudFront and S3 forms)."""
    query = parse_qs(urlsplit(url).query)
    try:
        if "Expires" in query:
            return float(query["Expires"][0]) - time.time() - _MARGIN
        if "X-Amz-Expires" in query:
            return float(query["X-Amz-Expires"][0]) - _MARGIN
    except ValueError:
        pass  # not a number: as good as not said
    return _DEFAULT_LIFETIME


def hub_error(error: TransferError, location: HubLocation, endpoint: str) -> TransferError:
    """Return what an answer of the Hub means in its own terms (``X-Error-Code``).

    Args:
        error: as made from the status; returned as it is where there is nothing to add.
        location: what was asked for.
        endpoint: base URL of the Hub, for the message.
    """
    response = error.response
    if response is None:
        return error
    code = response.headers.get("X-Error-Code", "")
    said = response.headers.get("X-Error-Message", "")
    repo = f"{location.repo_type} {location.repo_id!r} on {redact(endpoint)}"
    if code == "GatedRepo":
        return AccessError(
            f"access to {repo} is restricted: accept its conditions on its page and give a token "
            f"of that account (HF_TOKEN or `hf auth login`). {said}".rstrip(),
            response=response,
        )
    if code == "RevisionNotFound":
        return NotFoundError(
            f"{repo} has no revision {location.revision or 'main'!r}", response=response
        )
    if code == "EntryNotFound":
        return NotFoundError(f"{error} (no such file in {repo})", response=response)
    if said == "Access to this resource is disabled.":
        return AccessError(f"{repo} is disabled", response=response)
    if code == "RepoNotFound" or (response.status == 401 and "Invalid" not in said):
        return NotFoundError(
            f"there is no {repo}, or it is private and the token given, if any, may not read it",
            response=response,
        )
    return error
