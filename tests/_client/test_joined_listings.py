"""`hftransfer._client.joined_listings`: two listings side by side, in any order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._client.joined_listings import joined_listings
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
