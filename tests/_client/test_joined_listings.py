"""`hftransfer._client.joined_listings`: two listings side by side, in any order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._client import joined_listings as module
from hftransfer._client.joined_listings import joined_listings
from hftransfer.errors import UnsupportedError
from hftransfer.stores.base import Entry, ListingPage

pytestmark = pytest.mark.anyio


async def _pages(paths: Sequence[str], size: int) -> AsyncGenerator[ListingPage, None]:
    for start in range(0, max(1, len(paths)), size):
        entries = [Entry(path=path, size=1) for path in paths[start : start + size]]
        yield ListingPage(entries, is_last=start + size >= len(paths))


_PATHS = st.lists(st.text("abc", min_size=1, max_size=2), unique=True, max_size=12)


@given(first=_PATHS, second=_PATHS, size=st.integers(1, 4))
async def test_every_path_is_in_one_pair(first: list[str], second: list[str], size: int) -> None:
    """With its entries of both listings, in their order."""
    pairs = [
        (None if one is None else one.path, None if other is None else other.path)
        async for page in joined_listings(_pages(first, size), _pages(second, size + 1))
        for one, other in page
    ]

    expected = {
        (path if path in first else None, path if path in second else None)
        for path in {*first, *second}
    }
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected


async def test_equal_listings_are_read_side_by_side() -> None:
    """So that few entries wait for their counterpart: no page is ahead of the other by two."""
    read = [0, 0]

    async def counted(side: int) -> AsyncGenerator[ListingPage, None]:
        async with aclosing(_pages([f"{number:03d}" for number in range(100)], 10)) as pages:
            async for page in pages:
                read[side] += 1
                assert abs(read[0] - read[1]) <= 1
                yield page

    pairs = [pair async for page in joined_listings(counted(0), counted(1)) for pair in page]

    assert len(pairs) == 100
    assert all(one == other for one, other in pairs)


async def test_sorted_listings_of_other_files_hold_few_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What one side alone has is given out as soon as the other side has passed it."""
    monkeypatch.setattr(module, "_MAX_UNMATCHED", 20)
    held = 0

    def note(side: module._Side) -> None:
        nonlocal held
        held = max(held, len(side.unmatched))

    original = module._Side.advance

    async def advance(side: module._Side, other: module._Side) -> list[module.Pair]:
        pairs = await original(side, other)
        note(side)
        note(other)
        return pairs

    monkeypatch.setattr(module._Side, "advance", advance)
    first = [f"{number:04d}" for number in range(1000) if number % 5 == 1]
    second = [f"{number:04d}" for number in range(1000) if number % 5 != 1] + ["x"]
    found = [
        (one or other, one is None)
        async for page in joined_listings(_pages(first, 10), _pages(second, 10))
        for one, other in page
    ]

    assert len(found) == 1001
    assert {entry.path for entry, is_second in found if entry and not is_second} == set(first)
    assert held <= 20 + 2 * 10


async def test_one_listing_may_be_much_longer_than_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also in another order: nothing follows once the shorter one has ended."""
    monkeypatch.setattr(module, "_MAX_UNMATCHED", 20)
    paths = [f"{number:04d}" for number in reversed(range(1000))]
    pairs = [
        pair
        async for page in joined_listings(_pages(paths, 10), _pages(["0007"], 10))
        for pair in page
    ]

    assert len(pairs) == 1000
    assert sum(one is not None and other is not None for one, other in pairs) == 1


async def test_a_counterpart_that_comes_too_late_is_an_error_and_not_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A listing that was sorted for long, among very different ones, may not turn back."""
    monkeypatch.setattr(module, "_MAX_UNMATCHED", 20)
    first = [f"a{number:04d}" for number in range(100)]
    second = [f"b{number:04d}" for number in range(100)] + ["a0007"]
    with pytest.raises(UnsupportedError, match="'a0007' is listed behind"):
        async for _ in joined_listings(_pages(first, 10), _pages(second, 10)):
            pass
