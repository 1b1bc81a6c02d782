"""Errors of this package as huggingface_hub's own classes.

Callers of `snapshot_download` catch ``RepositoryNotFoundError``, ``GatedRepoError`` and
their like. Which class a refusal deserves is huggingface_hub's knowledge and changes with
its version, so the refusal is handed to its own ``hf_raise_for_status`` as a response of
the HTTP library that the installed version uses.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hftransfer.errors import IntegrityError, Response, TransferError

__all__ = ("hub_error", "raising_hub_errors")

# The body is at hand decoded and whole; these headers would make a client library decode it
# once more, or disbelieve its length.
_ABOUT_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding"})


@contextmanager
def raising_hub_errors() -> Iterator[None]:
    """Turn every `TransferError` of the block into what `hub_error` makes of it."""
    try:
        yield
    except TransferError as error:
        translated = hub_error(error)
        if translated is error:
            raise
        raise translated from error


def hub_error(error: TransferError) -> Exception:
    """Return the exception that huggingface_hub raises where this package raises `error`.

    An error with an HTTP response becomes the matching ``HfHubHTTPError``; damaged content
    becomes an ``OSError``, as its size check raises; anything else is returned as it is.
    """
    if error.response is not None:
        return _refusal(error.response) or error
    if isinstance(error, IntegrityError):
        return OSError(f"Consistency check failed: {error}")
    return error


def _refusal(response: Response) -> Exception | None:
    """The exception for `response`, or None if huggingface_hub sees nothing wrong with it."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import hf_raise_for_status

    try:
        hf_raise_for_status(_native_response(response))
    except HfHubHTTPError as refused:
        return refused
    return None


def _native_response(response: Response) -> Any:
    """`response` as an object of the HTTP library of the installed huggingface_hub.

    The URL loses its query, which may be a signature and would be part of the message.
    """
    import huggingface_hub

    url = response.url.partition("?")[0]
    headers = _content_headers(response.headers)
    if huggingface_hub.__version__.startswith("0."):
        requests = importlib.import_module("requests")
        native = requests.Response()
        native.status_code = response.status
        native.headers.update(headers)
        native._content = response.body
        native.url = url
        native.request = requests.Request(response.method, url).prepare()
        return native
    httpx = _httpx()
    return httpx.Response(
        response.status,
        headers=headers,
        content=response.body,
        request=httpx.Request(response.method, url),
    )


def _httpx() -> Any:
    """httpx for huggingface_hub 1.x, its successor for 2.x (exported under the old name)."""
    try:
        return importlib.import_module("huggingface_hub.utils").httpx
    except AttributeError:  # before 1.30
        return importlib.import_module("httpx")


def _content_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _ABOUT_THE_WIRE}
