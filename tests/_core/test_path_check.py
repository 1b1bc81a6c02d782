"""`hftransfer._core.path_check`: conflicts of paths, found in the order of the listing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.path_check import PathCheck
from hftransfer.errors import LocationError

_PATHS = st.lists(
    st.lists(
        st.sampled_from(["a", "a-", "a.b", "b", "é", "\U0001f600"]), min_size=1, max_size=3
    ).map("/".join),
    max_size=12,
)


def _accepts(paths: list[str], *, in_folders: bool) -> bool:
    check = PathCheck()
    try:
        for path in paths:
            check.add(path, in_folders=in_folders)
    except LocationError:
        return False
    return True


@given(paths=_PATHS, in_folders=st.booleans())
def test_a_sorted_listing_is_accepted_exactly_if_its_files_fit_into_one_folder(
    paths: list[str], in_folders: bool
) -> None:
    """No path twice; where files cannot be folders, none is the beginning of another."""
    fits = len(set(paths)) == len(paths)
    if in_folders:
        fits = fits and not any(other.startswith(f"{path}/") for path in paths for other in paths)

    assert _accepts(sorted(paths), in_folders=in_folders) == fits


@given(paths=st.lists(st.text("ab/", min_size=1, max_size=4), unique=True, max_size=10))
def test_a_listing_in_any_order_without_repetition_is_accepted(paths: list[str]) -> None:
    """A source need not sort its files."""
    assert _accepts(paths, in_folders=False)


def test_a_repetition_is_found_after_the_order_was_left() -> None:
    """Among all paths since then."""
    assert not _accepts(["b", "a", "c", "a"], in_folders=True)


def test_the_error_names_both_paths() -> None:
    """Though others are between them in the listing."""
    check = PathCheck()
    check.add("data", in_folders=True)
    check.add("data-1", in_folders=True)
    with pytest.raises(LocationError, match="'data' is a file and, for 'data/x'"):
        check.add("data/x", in_folders=True)
