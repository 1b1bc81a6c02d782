"""The classes of the errors that a step gets."""

from __future__ import annotations

import pickle

import pytest

pytest.importorskip("metaflow.decorators")

from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from metaflow.exception import MetaflowException

from hftransfer.errors import AccessError, NetworkError, NotFoundError, Response, TransferError
from metaflow_extensions.hftransfer.plugins.hub.repair import UnrepairedError
from metaflow_extensions.hftransfer.plugins.hub.step_errors import raising_step_errors, step_error

pytestmark = pytest.mark.metaflow


def refused(kind: type[TransferError], status: int, code: str) -> TransferError:
    """Return the engine's error for a response with huggingface_hub's error code."""
    url = "https://hub/api/models/no/such"
    response = Response("GET", url, status, {"X-Error-Code": code})
    return kind("there is no model no/such", response=response)


@pytest.mark.parametrize(
    ("own", "status", "code", "theirs"),
    [
        (NotFoundError, 404, "RepoNotFound", RepositoryNotFoundError),
        (NotFoundError, 404, "RevisionNotFound", RevisionNotFoundError),
        (AccessError, 403, "GatedRepo", GatedRepoError),
    ],
)
def test_what_users_of_huggingface_hub_catch_is_a_metaflow_exception(
    own: type[TransferError], status: int, code: str, theirs: type[Exception]
) -> None:
    """And the engine's own class; Metaflow shows its message alone, in one line."""
    error = step_error(refused(own, status, code))

    assert isinstance(error, theirs)
    assert isinstance(error, own)
    assert isinstance(error, MetaflowException)
    assert str(error) == f"{theirs.__name__}: there is no model no/such"
    assert error.headline == "@huggingface_hub"
    assert error.response.status_code == status


def test_errors_without_a_response_are_the_engines_and_metaflows() -> None:
    """A broken connection has no class of huggingface_hub."""
    with (
        pytest.raises(NetworkError, match="NetworkError: cannot reach") as raised,
        raising_step_errors(),
    ):
        raise NetworkError("cannot reach the Hub")

    assert isinstance(raised.value, MetaflowException)
    assert isinstance(raised.value, ConnectionError)


def test_errors_survive_pickling() -> None:
    """A step may return one from another process."""
    error = step_error(refused(NotFoundError, 404, "RepoNotFound"))

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here

    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_an_entry_that_was_not_repaired_is_named_as_such() -> None:
    """Its error is of the engine and of Metaflow already, so it stays as it is."""
    error = UnrepairedError("the stored copy is damaged")

    with pytest.raises(UnrepairedError) as raised, raising_step_errors():
        raise error

    assert raised.value is error
    assert str(error) == "the stored copy is damaged"
