"""This package's errors as huggingface_hub's classes, with the installed version."""

from __future__ import annotations

import gzip

import pytest
from huggingface_hub import errors

from hftransfer._hub_compat.error_mapping import raising_huggingface_errors, to_huggingface_error
from hftransfer.errors import (
    AccessError,
    DestinationError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    RejectedError,
    Response,
    ServerError,
    StalledError,
    TransferError,
)

_URL = "https://hub.test/acme/tiny/resolve/main/config.json"
_API = "https://hub.test/api/models/acme/tiny/revision/main"


def rejected(
    status: int, headers: dict[str, str] | None = None, *, url: str = _URL, body: bytes = b""
) -> RejectedError:
    response = Response("GET", url, status, headers or {}, body)
    return RejectedError("rejected", response=response)


@pytest.mark.parametrize(
    ("status", "headers", "url", "expected"),
    [
        (404, {"X-Error-Code": "RevisionNotFound"}, _API, errors.RevisionNotFoundError),
        (404, {"X-Error-Code": "EntryNotFound"}, _URL, errors.EntryNotFoundError),
        (403, {"X-Error-Code": "GatedRepo"}, _URL, errors.GatedRepoError),
        (401, {"X-Error-Code": "GatedRepo"}, _URL, errors.GatedRepoError),
        (404, {"X-Error-Code": "RepoNotFound"}, _API, errors.RepositoryNotFoundError),
        (401, {"X-Error-Code": "RepoNotFound"}, _API, errors.RepositoryNotFoundError),
        (
            403,
            {"X-Error-Message": "Access to this resource is disabled."},
            _URL,
            errors.DisabledRepoError,
        ),
        (400, {}, _API, errors.BadRequestError),
        (403, {}, _URL, errors.HfHubHTTPError),
        (416, {}, _URL, errors.HfHubHTTPError),
        (429, {}, _URL, errors.HfHubHTTPError),
        (500, {}, _URL, errors.HfHubHTTPError),
        (503, {}, _URL, errors.HfHubHTTPError),
    ],
)
def test_an_error_response_has_huggingface_hubs_class(
    status: int, headers: dict[str, str], url: str, expected: type[Exception]
) -> None:
    """Status, ``X-Error-Code`` and URL decide, by huggingface_hub's own rules."""
    error = to_huggingface_error(rejected(status, headers, url=url))

    assert isinstance(error, expected)
    assert isinstance(error, errors.HfHubHTTPError)
    assert error.response.status_code == status


def test_the_message_has_request_id_and_explanation() -> None:
    """Support needs the request id, users the explanation in the body."""
    headers = {"X-Request-Id": "Root=1-abc", "Content-Type": "application/json"}

    error = to_huggingface_error(rejected(403, headers, body=b'{"error": "ask the owner"}'))

    assert "Root=1-abc" in str(error)
    assert "ask the owner" in str(error)


def test_a_compressed_body_is_not_decoded_twice() -> None:
    """Content-Encoding and Content-Length describe the transfer, not the decoded body."""
    body = b'{"error": "ask the owner"}'
    length = str(len(gzip.compress(body)))
    headers = {"Content-Encoding": "gzip", "Content-Length": length}

    error = to_huggingface_error(
        rejected(403, {**headers, "Content-Type": "application/json"}, body=body)
    )

    assert "ask the owner" in str(error)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_signature_is_not_part_of_the_message(status: int) -> None:
    """The query of a signed URL gives access to the file until it expires."""
    error = to_huggingface_error(rejected(status, url=f"{_URL}?X-Amz-Signature=s3cr3t"))

    assert "s3cr3t" not in str(error)
    assert isinstance(error, errors.HfHubHTTPError)
    assert "s3cr3t" not in str(error.response.url)


def test_an_integrity_error_is_an_oserror() -> None:
    """As huggingface_hub raises for a file of the wrong size."""
    error = to_huggingface_error(IntegrityError("model.safetensors: its sha256 is not the Hub's"))

    assert type(error) is OSError
    assert str(error).startswith("Consistency check failed: model.safetensors")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (NetworkError("connection refused"), ConnectionError),
        (StalledError("no data"), TimeoutError),
        (DestinationError("cannot write"), OSError),
        (NotFoundError("no such file"), FileNotFoundError),
        (AccessError("no token"), PermissionError),
    ],
)
def test_errors_without_a_response_are_returned_unchanged(
    error: TransferError, builtin: type[Exception]
) -> None:
    """They are built-in exceptions already, which generic code can catch."""
    assert to_huggingface_error(error) is error
    assert isinstance(error, builtin)


@pytest.mark.parametrize("status", [200, 302])
def test_an_error_with_a_success_status_is_returned_unchanged(status: int) -> None:
    """A 200 with an invalid body is no error by huggingface_hub's rules."""
    error = ServerError("the response is not JSON", response=Response("GET", _API, status, {}))

    assert to_huggingface_error(error) is error


def test_the_original_error_is_the_cause() -> None:
    """Its message says which request failed."""
    original = rejected(404, {"X-Error-Code": "RepoNotFound"}, url=_API)

    with pytest.raises(errors.RepositoryNotFoundError) as caught, raising_huggingface_errors():
        raise original

    assert caught.value.__cause__ is original


def test_other_exceptions_are_not_mapped() -> None:
    """A bug or an interruption keeps its class."""
    original = KeyError("bug")

    with pytest.raises(KeyError) as caught, raising_huggingface_errors():
        raise original

    assert caught.value is original
