"""`hftransfer.stores.names`: which names of a listing can be those of local files."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer.errors import LocationError
from hftransfer.locations import path_problem, safe_path
from hftransfer.stores.names import LocalNameCheck, refuse_bad_names

_paths = st.lists(st.text("ab./\\:\0C-é", max_size=7), unique=True, max_size=30)


@given(_paths)
def test_accepted_names_can_all_be_written_into_one_folder(paths: list[str]) -> None:
    """In the order of S3's listings: none leaves the folder, and none is both file and folder."""
    check = LocalNameCheck()
    accepted = [path for path in sorted(paths) if check(path) is None]

    assert len({os.path.normpath(path) for path in accepted}) == len(accepted)
    for path in accepted:
        assert safe_path(path) == path
        assert not set(map(str, PurePosixPath(path).parents)) & set(accepted)


@given(_paths)
def test_a_name_is_refused_only_for_a_reason(paths: list[str]) -> None:
    """A name that `safe_path` accepts is refused only below a file that was accepted before."""
    check = LocalNameCheck()
    accepted: set[str] = set()
    for path in sorted(paths):
        if check(path) is None:
            accepted.add(path)
        elif path_problem(path) is None:
            assert set(map(str, PurePosixPath(path).parents)) & accepted


@given(_paths)
def test_in_any_order_no_name_leaves_the_folder(paths: list[str]) -> None:
    check = LocalNameCheck()
    for path in paths:
        if check(path) is None:
            assert safe_path(path) == path


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("a//b", "has an empty segment"),
        ("", "has an empty segment"),
        ("/a", "is an absolute path"),
        ("a/", "ends in a slash"),
        ("a/../b", "has a segment '.' or '..'"),
        ("a/.", "has a segment '.' or '..'"),
        ("a\\b", "has a backslash"),
        ("a\0b", "has a NUL"),
        ("C:x", "begins with a drive letter"),
        ("é" * 128, "has a segment of 256 bytes, more than the 255 of file systems"),
        ("a/" + "b" * 256 + "/c", "has a segment of 256 bytes, more than the 255 of file systems"),
        ("b" * 255, None),
        ("..a/b..", None),
        ("ab:c", None),
    ],
)
def test_the_problem_is_told(path: str, problem: str | None) -> None:
    assert LocalNameCheck()(path) == problem


def test_a_file_in_the_place_of_a_folder_is_found_among_its_siblings() -> None:
    """Keys such as ``a-1`` stand between ``a`` and ``a/b`` in a listing."""
    check = LocalNameCheck()
    found = [check(path) for path in ("a", "a-1", "a-1/x", "a.b", "a/b", "a/c/d", "b")]

    below = ["is below 'a-1', which is a file", None, "is below 'a', which is a file"]
    assert found == [None, None, *below, "is below 'a', which is a file", None]


def test_an_error_names_the_first_of_many() -> None:
    """Five of them and the number of the others."""
    paths = [f"{number}//x" for number in range(8)]
    with pytest.raises(LocationError) as caught:
        refuse_bad_names("/out", ["good", *paths], LocalNameCheck())

    message = str(caught.value)
    assert message.startswith("/out: 8 names cannot be written: '0//x' has an empty segment; ")
    assert message.endswith("'4//x' has an empty segment, and 3 more")
