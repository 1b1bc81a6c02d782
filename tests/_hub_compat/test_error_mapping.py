"""Errors of ours as huggingface_hub's own classes, for the version that is installed."""

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


def refused(
    status: int, headers: dict[str, str] | None = None, *, url: str = _URL, body: bytes = b""
) -> RejectedError:
    response = Response("GET", url, status, headers or {}, body)
    return RejectedError("refused", response=response)


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
def test_a_refusal_has_the_class_that_huggingface_hub_gives_it(
    status: int, headers: dict[str, str], url: str, expected: type[Exception]
) -> None:
    """Status and ``X-Error-Code`` decide, by huggingface_hub's own rules."""
    error = to_huggingface_error(refused(status, headers, url=url))

    assert isinstance(error, expected)
    assert isinstance(error, errors.HfHubHTTPError)
    assert error.response.status_code == status


def test_what_the_server_said_is_in_the_message() -> None:
    """The request id and the body's explanation help whoever asks for support."""
    headers = {"X-Request-Id": "Root=1-abc", "Content-Type": "application/json"}

    error = to_huggingface_error(refused(403, headers, body=b'{"error": "ask the owner"}'))

    assert "Root=1-abc" in str(error)
    assert "ask the owner" in str(error)


def test_a_body_that_came_compressed_is_not_decoded_twice() -> None:
    """The headers of the wire do not fit the body at hand, which is plain already."""
    body = b'{"error": "ask the owner"}'
    length = str(len(gzip.compress(body)))
    headers = {"Content-Encoding": "gzip", "Content-Length": length}

    error = to_huggingface_error(
        refused(403, {**headers, "Content-Type": "application/json"}, body=body)
    )

    assert "ask the owner" in str(error)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_signature_is_in_no_message(status: int) -> None:
    """The query of a signed URL is as good as a password for an hour."""
    error = to_huggingface_error(refused(status, url=f"{_URL}?X-Amz-Signature=s3cr3t"))

    assert "s3cr3t" not in str(error)
    assert isinstance(error, errors.HfHubHTTPError)
    assert "s3cr3t" not in str(error.response.url)


def test_damaged_content_is_an_oserror() -> None:
    """As when huggingface_hub finds another size than the announced one."""
    error = to_huggingface_error(IntegrityError("model.safetensors: its sha256 is not the Hub's"))

    assert type(error) is OSError
    assert str(error).startswith("Consistency check failed: model.safetensors")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (NetworkError("refused"), ConnectionError),
        (StalledError("nothing came"), TimeoutError),
        (DestinationError("cannot write"), OSError),
        (NotFoundError("no such file"), FileNotFoundError),
        (AccessError("no token"), PermissionError),
    ],
)
def test_errors_without_an_answer_stay_what_they_are(
    error: TransferError, builtin: type[Exception]
) -> None:
    """They are built-in exceptions already, which generic code catches."""
    assert to_huggingface_error(error) is error
    assert isinstance(error, builtin)


@pytest.mark.parametrize("status", [200, 302])
def test_an_answer_that_is_no_refusal_leaves_the_error_alone(status: int) -> None:
    """A 200 with a broken body is our complaint, not the Hub's."""
    error = ServerError("the answer is not JSON", response=Response("GET", _API, status, {}))

    assert to_huggingface_error(error) is error


def test_the_original_error_is_the_cause() -> None:
    """What exactly was being done when the Hub refused is not lost."""
    original = refused(404, {"X-Error-Code": "RepoNotFound"}, url=_API)

    with pytest.raises(errors.RepositoryNotFoundError) as caught, raising_huggingface_errors():
        raise original

    assert caught.value.__cause__ is original


def test_other_exceptions_pass_through_untouched() -> None:
    """A bug or an interruption is not dressed up as an answer of the Hub."""
    original = KeyError("bug")

    with pytest.raises(KeyError) as caught, raising_huggingface_errors():
        raise original

    assert caught.value is original
