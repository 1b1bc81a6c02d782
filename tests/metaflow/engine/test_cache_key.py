"""Which stored entry satisfies which request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("metaflow.decorators")

pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from metaflow_extensions.hftransfer.plugins.engine.cache_key import (
    CACHE_SCOPES,
    choose_entry,
    entry_metadata,
    entry_name,
)
from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest, parse_arguments
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.hf_hub import (
    decorator,
)

pytestmark = pytest.mark.metaflow

pattern = st.sampled_from(["*", "*.json", "é", '"'])
patterns = st.none() | pattern | st.lists(pattern, max_size=2)
arguments = st.fixed_dictionaries(
    {
        "repo_id": st.sampled_from(["bert", "a/b"]),
        "repo_type": st.sampled_from(["model", "dataset", "space"]),
    },
    optional={
        "revision": st.none() | st.sampled_from(["main", "refs/pr/1", "é"]),
        "allow_patterns": patterns,
        "ignore_patterns": patterns,
    },
)


def entry(request: RepoRequest, created: str = "2026-01-01", **changes: Any) -> dict[str, Any]:
    metadata = {**entry_metadata(request, "c" * 40, with_arguments=False), **changes}
    return {"metadata": metadata, "created_on": created}


@given(arguments, st.sampled_from(CACHE_SCOPES))
def test_names_are_those_of_metaflow_checkpoint(asked: dict[str, Any], scope: str) -> None:
    """For any request and scope both decorators look for the same name."""
    theirs = decorator.HuggingfaceRegistry(None)
    theirs._cache_scope = scope

    expected = theirs._scoped_name(asked["repo_id"], asked["repo_type"], asked)

    assert entry_name(parse_arguments(asked), scope) == expected


@given(arguments, arguments)
def test_an_entry_satisfies_its_own_request_and_no_other_selection(
    asked: dict[str, Any], other: dict[str, Any]
) -> None:
    """An entry is a hit for its own request, and never for other patterns."""
    made_for, wanted = parse_arguments(asked), parse_arguments(other)

    assert choose_entry([entry(made_for)], made_for) is not None

    def chosen(request: RepoRequest) -> tuple[Any, ...]:
        record = entry_metadata(request, None, with_arguments=False)["hftransfer"]
        return tuple(
            None if record[name] is None else frozenset(record[name])
            for name in ("allow_patterns", "ignore_patterns")
        )

    names = [(request.repo_id, request.repo_type) for request in (made_for, wanted)]
    if chosen(made_for) != chosen(wanted) or names[0] != names[1]:
        assert choose_entry([entry(made_for)], wanted) is None


@pytest.mark.parametrize(
    ("stored", "asked", "hit"),
    [
        (None, "main", True),
        ("main", None, True),
        ("main", "v2", False),
        ("main", "c" * 40, True),
        ("main", "d" * 40, False),
    ],
)
def test_revisions(stored: str | None, asked: str | None, hit: bool) -> None:
    """The default branch is main, and a commit is found whatever revision was requested for it."""
    found = choose_entry(
        [entry(RepoRequest("a/b", revision=stored))], RepoRequest("a/b", revision=asked)
    )

    assert (found is not None) == hit


def test_newest_entry_wins() -> None:
    """After a forced download later requests get the new files."""
    request = RepoRequest("a/b")
    old, new = entry(request, "2026-01-01T00:00:00"), entry(request, "2026-01-02T00:00:00")

    assert choose_entry([new, old], request) == new
    assert choose_entry([old, new], request) == new


@pytest.mark.parametrize(
    ("metadata", "asked", "hit"),
    [
        ({}, {}, True),
        ({}, {"revision": "main"}, True),
        ({}, {"revision": "v2"}, False),
        ({}, {"allow_patterns": "*.json"}, False),
        ({"kwargs": {"allow_patterns": ["*.json"]}}, {"allow_patterns": "*.json"}, True),
        ({"kwargs": {"allow_patterns": ["*.json"]}}, {}, False),
        ({"kwargs": {"token": "t", "local_dir": "x"}}, {}, True),
        ({"repo_id": "other/repo"}, {}, False),
        ({"repo_id": "a/b", "repo_type": "dataset"}, {}, False),
    ],
)
def test_entries_of_metaflow_checkpoint(
    metadata: dict[str, Any], asked: dict[str, Any], hit: bool
) -> None:
    """Without a record an entry satisfies plain requests only, unless it has kwargs."""
    request = parse_arguments({"repo_id": "a/b", **asked})

    assert (choose_entry([{"metadata": metadata}], request) is not None) == hit


@pytest.mark.parametrize("with_arguments", [True, False])
def test_metadata_never_holds_a_token(with_arguments: bool) -> None:
    """Arguments that may contain a credential are not stored."""
    secrets = {"token": "S3CRET", "endpoint": "http://u:S3CRET@h", "headers": {"a": "S3CRET"}}
    request = parse_arguments({"repo_id": "a/b", **secrets})

    assert "S3CRET" not in str(entry_metadata(request, None, with_arguments=with_arguments))
    assert "S3CRET" not in repr(request)
