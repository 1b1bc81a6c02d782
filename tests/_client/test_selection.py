"""Glob patterns select the files that huggingface_hub's own filter selects."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hftransfer._client.selection import select_entries
from hftransfer.stores.base import Entry


@given(st.lists(st.text("ab/.*", min_size=1), unique=True), st.lists(st.text("ab/.*")))
def test_patterns_select_what_huggingface_hub_selects(
    paths: list[str], patterns: list[str]
) -> None:
    """`huggingface_hub.utils.filter_repo_objects` is the reference for allow, ignore and both."""
    from huggingface_hub.utils import filter_repo_objects

    entries = [Entry(path=path, size=0) for path in paths]
    for allow, ignore in ((patterns, None), (None, patterns), (patterns, patterns[:1])):
        expected = list(filter_repo_objects(paths, allow_patterns=allow, ignore_patterns=ignore))
        assert [entry.path for entry in select_entries(entries, allow, ignore)] == expected
