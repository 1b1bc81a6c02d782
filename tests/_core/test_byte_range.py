"""`hftransfer._core.byte_range`: the progress of a range, and its division."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer


def test_bytes_that_arrived_are_not_requested_again() -> None:
    """`position`, `missing` and `remaining` describe the bytes that have not arrived."""
    buffer = memoryview(bytearray(10))
    part = ByteRangeBuffer(100, buffer)

    part.append(b"abc")

    assert (part.position, part.stop, part.missing) == (103, 110, 7)
    part.remaining[:] = b"defghij"
    part.advance(7)
    assert part.missing == 0
    assert bytes(buffer) == b"abcdefghij"


def test_a_reset_discards_what_arrived() -> None:
    """For sources that can only be read from the beginning."""
    part = ByteRangeBuffer(0, memoryview(bytearray(4)))
    part.append(b"ab")

    part.reset()

    assert (part.position, part.missing) == (0, 4)


@given(
    size=st.integers(1, 500),
    steps=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 60), st.integers(2, 9)), max_size=40
    ),
    minimum=st.integers(1, 50),
)
def test_ranges_that_were_split_cover_every_byte_once(
    size: int, steps: list[tuple[int, int, int]], minimum: int
) -> None:
    """However ranges are filled and split, together they cover the original range."""
    content = bytes(index % 251 for index in range(size))
    buffer = memoryview(bytearray(size))
    parts = [ByteRangeBuffer(1000, buffer)]
    for which, count, count_of_parts in steps:
        part = parts[which % len(parts)]
        arrived = min(count, part.missing)
        part.append(content[part.position - 1000 : part.position - 1000 + arrived])
        other = part.split_off(minimum, count_of_parts)
        if other is not None:
            assert part.missing >= minimum
            share = other.missing // (count_of_parts - 1)
            assert share <= part.missing < share + count_of_parts
            parts.append(other)

    ends = sorted((part.start, part.stop) for part in parts)
    assert ends[0][0] == 1000
    assert ends[-1][1] == 1000 + size
    assert all(first[1] == second[0] for first, second in itertools.pairwise(ends))
    for part in parts:
        part.append(content[part.position - 1000 : part.stop - 1000])
    assert bytes(buffer) == content
