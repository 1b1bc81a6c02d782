"""`hftransfer._core.path_set`: the set of what was added, in little memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.path_set import PathSet


@given(added=st.lists(st.text(max_size=3)), asked=st.lists(st.text(max_size=3)))
def test_it_is_the_set_of_what_was_added(added: list[str], asked: list[str]) -> None:
    """`add` says whether a path is new."""
    paths = PathSet()
    for index, path in enumerate(added):
        assert paths.add(path) == (path not in added[:index])

    assert len(paths) == len(set(added))
    assert [path in paths for path in asked] == [path in added for path in asked]


def test_it_grows_and_takes_at_most_24_bytes_per_path() -> None:
    """Nothing is lost when the table is made anew."""
    paths = PathSet()
    assert all(paths.add(f"data/{number}") for number in range(20_000))

    assert not any(paths.add(f"data/{number}") for number in range(20_000))
    assert f"data/{20_000}" not in paths
    assert paths._slots.itemsize * len(paths._slots) <= 24 * 20_000 * 1.5
