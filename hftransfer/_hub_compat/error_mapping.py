"""Maps this package's errors to huggingface_hub's own exception classes.

Callers of `snapshot_download` catch ``RepositoryNotFoundError``, ``GatedRepoError`` etc. The rules
that map an HTTP response to a class are huggingface_hub's and change with its version. Therefore
the response is passed to its own ``hf_raise_for_status``, as an object of the HTTP library that
the installed version uses.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hftransfer.errors import IntegrityError, Response, TransferError

__all__ = ("raising_huggingface_errors", "to_huggingface_error")

# Headers that describe the body as it was transferred. Our `Response` has the whole, decoded body:
# with these headers an HTTP library would decode it again, or reject its length.
_BODY_TRANSFER_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})


@contextmanager
def raising_huggingface_errors() -> Iterator[None]:
    """Raise `to_huggingface_error` of every `TransferError` that leaves the block, from it."""
    try:
        yield
    except TransferError as error:
        mapped = to_huggingface_error(error)
        if mapped is error:
            raise
        raise mapped from error


def to_huggingface_error(error: TransferError) -> Exception:
    """Return the exception that huggingface_hub raises in the situation of `error`.

    An error with an HTTP response becomes the matching ``HfHubHTTPError``. An `IntegrityError`
    becomes an ``OSError``, as huggingface_hub raises for a wrong size. Other errors, and those
    whose response has no error status, are returned unchanged.
    """
    if error.response is not None:
        return _http_error(error.response) or error
    if isinstance(error, IntegrityError):
        return OSError(f"Consistency check failed: {error}")
    return error


def _http_error(response: Response) -> Exception | None:
    """Return what ``hf_raise_for_status`` raises for `response`; None if it raises nothing."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import hf_raise_for_status

    try:
        hf_raise_for_status(_native_response(response))
    except HfHubHTTPError as error:
        return error
    return None


def _native_response(response: Response) -> Any:
    """Return `response` as an object of the HTTP library of the installed huggingface_hub.

    The URL is part of the message, so it has neither user nor query: they may be credentials, as
    may be what a server repeats in its headers and body.
    """
    import huggingface_hub

    response = response.without_credentials()
    url = response.url.partition("?")[0]
    headers = _without_body_transfer_headers(response.headers)
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
    """Return httpx for huggingface_hub 1.x, and for 2.x its successor, exported as ``httpx``."""
    try:
        return importlib.import_module("huggingface_hub.utils").httpx
    except AttributeError:  # before 1.30
        return importlib.import_module("httpx")


def _without_body_transfer_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in headers.items() if name.lower() not in _BODY_TRANSFER_HEADERS
    }
