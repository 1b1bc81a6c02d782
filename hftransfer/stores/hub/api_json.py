"""What the JSON of the Hub's API means, checked before it is used. Pure, no I/O.

A server that answers 200 with JSON of another shape is no Hub, or one that is broken: nothing of
its answer is used. Sizes, digests and commits become numbers, file names and parts of URLs, so
each of them must have exactly the form that the Hub gives it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hftransfer.errors import RejectedError, Response, ServerError, redact

__all__ = ("COMMIT", "commit_of", "tree_items")

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Values in one response. A page of a listing has a thousand entries of about ten values; many more
# of them in the same number of bytes would take hundreds of times the memory.
_MAX_VALUES = 500_000
_MAX_SIZE = 1 << 53  # the largest whole number that every JSON parser reads exactly


def commit_of(response: Response) -> str:
    """Return the commit that ``/api/…/revision/…`` names.

    Raises:
        ServerError: if the response is not JSON.
        RejectedError: if it does not describe a revision.
    """
    document = _parse(response)
    commit = document.get("sha") if isinstance(document, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise _not_the_api(response, "a revision with its commit")
    return commit


def tree_items(response: Response) -> Sequence[Mapping[str, Any]]:
    """Return the entries of one page of ``/api/…/tree/…``; those of files have all their fields.

    Raises:
        ServerError: if the response is not JSON.
        RejectedError: if it is not a page of a listing.
    """
    document = _parse(response)
    if not isinstance(document, list) or not all(map(_is_tree_item, document)):
        raise _not_the_api(response, "a listing of files with sizes and digests")
    return document


def _is_tree_item(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    if item.get("type") != "file":
        return True
    lfs = item.get("lfs")
    is_lfs = lfs is None or (
        isinstance(lfs, dict) and _is_hex(lfs.get("oid"), _SHA256) and _is_size(lfs.get("size"))
    )
    xet = item.get("xetHash")
    return (
        is_lfs
        and _is_name(item.get("path"))
        and _is_hex(item.get("oid"), COMMIT)
        and _is_size(item.get("size"))
        and (xet is None or isinstance(xet, str))
    )


def _is_hex(value: Any, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SIZE


def _is_name(value: Any) -> bool:
    # JSON can express half of a surrogate pair, which no URL and no file name can.
    return isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)


def _parse(response: Response) -> Any:
    body = response.body
    if sum(map(body.count, (b"[", b"{", b","))) > _MAX_VALUES:
        raise _not_the_api(response, f"at most {_MAX_VALUES:,} values")
    try:
        return json.loads(body)
    except RecursionError:
        raise _not_the_api(response, "values that are not nested deeply") from None
    except ValueError as error:
        # A captive portal or an error page in place of the API.
        raise ServerError(
            f"{redact(response.url)}: the response is not JSON", response=response, is_outage=False
        ) from error


def _not_the_api(response: Response, expected: str) -> RejectedError:
    return RejectedError(
        f"{redact(response.url)}: the response is not that of the Hub's API: "
        f"{expected} was expected; is the endpoint right?",
        response=response,
    )
