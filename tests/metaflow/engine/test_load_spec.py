"""The forms of load=, and the arguments of snapshot_download."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    HuggingfaceHubError,
    RepoRequest,
    parse_arguments,
    parse_load,
    without_credentials,
)

pytestmark = pytest.mark.metaflow


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("a/b", RepoRequest("a/b")),
        (("a/b", "./p"), RepoRequest("a/b", path="./p")),
        (["a/b", "./p"], RepoRequest("a/b", path="./p")),
        ({"repo_id": "a/b", "revision": "v1"}, RepoRequest("a/b", revision="v1")),
        (({"repo_id": "a/b"}, "./p"), RepoRequest("a/b", path="./p")),
        (
            [{"repo_id": "a/b", "repo_type": "dataset"}, "p"],
            RepoRequest("a/b", "dataset", path="p"),
        ),
        (
            {"repo_id": "a/b", "ignore_patterns": ("*.h5",)},
            RepoRequest("a/b", ignore_patterns=["*.h5"]),
        ),
    ],
)
def test_every_form_of_an_entry(entry: object, expected: RepoRequest) -> None:
    """All documented forms, and pairs as JSON lists, become requests."""
    assert parse_load([entry]) == [expected]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("a/b", 'load must be a list, not "a/b"'),
        ({"repo_id": "a/b"}, "load must be a list"),
        (("a/b", "./p"), "load must be a list"),
        ([7], "load entry 7 is invalid"),
        ([["a/b"]], "has 1 items"),
        ([["a/b", None]], "the path, its second item, must be a string"),
        ([{"revision": "main"}], '"repo_id" must be a repository id'),
        ([{"repo_id": "a/b", "repo_type": "modle"}], "must be model, dataset or space"),
        ([{"repo_id": "a/b", "revision": 3}], "must be a branch, tag or commit"),
        ([{"repo_id": "a/b", "allow_patterns": [1]}], "allow_patterns must be a pattern"),
        ([{"repo_id": "a/b", "dry_run": True}], "dry_run=True downloads nothing"),
        ([{"repo_id": "a/b", "alow_patterns": "*"}], "alow_patterns: unknown argument"),
    ],
)
def test_a_malformed_value_is_refused_with_a_reason(load: Any, message: str) -> None:
    """The message names the malformed value."""
    with pytest.raises(HuggingfaceHubError) as caught:
        parse_load(load)

    assert message in str(caught.value)


def test_messages_do_not_show_tokens() -> None:
    """An entry is quoted without its token."""
    with pytest.raises(HuggingfaceHubError) as caught:
        parse_load([[{"repo_id": "a/b", "token": "hf_secret"}, 1, 2]])

    assert "hf_secret" not in str(caught.value)


def test_every_argument_of_snapshot_download_is_known() -> None:
    """No argument of the installed huggingface_hub's function is refused as unknown."""
    import inspect

    from huggingface_hub import snapshot_download

    names = set(inspect.signature(snapshot_download).parameters)

    assert parse_arguments({**dict.fromkeys(names), "repo_id": "a/b"}).repo_id == "a/b"


@pytest.mark.parametrize(
    ("request_", "source"),
    [
        (RepoRequest("bert"), "hf://bert"),
        (RepoRequest("a/b", "dataset", "v1"), "hf://datasets/a/b@v1"),
        (RepoRequest("a/b", "space", "refs/pr/1"), "hf://spaces/a/b@refs%2Fpr%2F1"),
    ],
)
def test_source_is_a_location_of_the_engine(request_: RepoRequest, source: str) -> None:
    """The engine parses type, id and revision from the location string."""
    from hftransfer.locations import HubLocation, parse_location

    location = parse_location(request_.source)

    assert request_.source == source
    assert isinstance(location, HubLocation)
    assert (location.repo_id, location.repo_type, location.revision) == (
        request_.repo_id,
        request_.repo_type,
        request_.revision,
    )


def test_credentials_are_removed_from_attributes() -> None:
    """Stored attributes have neither tokens nor headers; the rest is unchanged."""
    load = ["a/b", ({"repo_id": "c/d", "token": "hf_secret", "revision": "v1"}, "./p")]

    assert without_credentials(load) == ["a/b", ({"repo_id": "c/d", "revision": "v1"}, "./p")]
