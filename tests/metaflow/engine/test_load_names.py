"""The names of the repositories in load=."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("metaflow.decorators")

from metaflow_extensions.hftransfer.plugins.engine.load_names import (
    aliases,
    check_loads,
    listed_names,
)
from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    HuggingfaceHubError,
    RepoRequest,
    parse_load,
)

pytestmark = pytest.mark.metaflow

PATTERNS = st.sampled_from([None, "*.json", ["*.json", "*.txt"]])
REQUESTS = st.lists(
    st.builds(
        RepoRequest,
        repo_id=st.sampled_from(["org/a", "org/b"]),
        repo_type=st.sampled_from(["model", "dataset", "space"]),
        revision=st.sampled_from([None, "main", "v2"]),
        allow_patterns=PATTERNS,
        ignore_patterns=PATTERNS,
        path=st.sampled_from([None, "./x", "./y"]),
    ),
    max_size=5,
)


@given(requests=REQUESTS)
def test_every_load_has_a_name_of_its_own_or_is_refused(requests: list[RepoRequest]) -> None:
    """The names that are listed are different, and all of them are among the aliases."""
    try:
        check_loads(requests, "start")
    except HuggingfaceHubError:
        return
    names = listed_names(requests)

    listed = [name for each in names for name in each]
    assert len(set(listed)) == len(listed)
    assert all(
        each and set(each) <= set(aliases(request))
        for each, request in zip(names, requests, strict=True)
    )


@pytest.mark.parametrize(
    ("load", "names"),
    [
        (["org/a", "org/b"], [["org/a"], ["org/b"]]),
        (
            ["org/a", {"repo_id": "org/a", "revision": "v2"}],
            [["org/a@main"], ["org/a", "org/a@v2"]],
        ),
        (
            ["org/a", {"repo_id": "org/a", "repo_type": "dataset"}],
            [["models/org/a"], ["org/a", "datasets/org/a"]],
        ),
        (
            [
                {"repo_id": "org/a", "allow_patterns": ["*.json", "*.txt"]},
                {"repo_id": "org/a", "ignore_patterns": "*.bin"},
            ],
            [["org/a[*.json,*.txt]"], ["org/a", "org/a[*,!*.bin]"]],
        ),
        ([("org/a", "./x"), ("org/a", "./y")], [["org/a:./x"], ["org/a", "org/a:./y"]]),
    ],
    ids=["different", "revisions", "types", "patterns", "paths"],
)
def test_a_name_has_the_parts_that_differ(load: list[Any], names: list[list[str]]) -> None:
    """The id alone is the last of the loads."""
    assert listed_names(parse_load(load)) == names


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (["org/a", "org/a"], "names model org/a twice with the same arguments"),
        (["org/a", {"repo_id": "org/a", "revision": "main"}], "twice with the same arguments"),
        ([("org/a", "x"), ({"repo_id": "org/a", "revision": "v2"}, "./x")], "twice into ./x"),
    ],
)
def test_loads_that_cannot_both_be_reached_are_refused(load: list[Any], message: str) -> None:
    """Before the flow runs."""
    with pytest.raises(HuggingfaceHubError, match=message):
        check_loads(parse_load(load), "start")
