"""`hftransfer._core.byte_range`: what has arrived stays, and what is missing can be shared."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer


def test_what_has_arrived_is_not_asked_for_again() -> None:
    """After a part has arrived, position, rest and left are about what is missing."""
    buffer = memoryview(bytearray(10))
    span = ByteRangeBuffer(100, buffer)

    span.append(b"abc")

    assert (span.position, span.stop, span.missing) == (103, 110, 7)
    span.remaining[:] = b"defghij"
    span.advance(7)
    assert span.missing == 0
    assert bytes(buffer) == b"abcdefghij"


def test_a_restarted_span_misses_everything() -> None:
    """`restart` is for sources that only begin at the beginning."""
    span = ByteRangeBuffer(0, memoryview(bytearray(4)))
    span.append(b"ab")

    span.reset()

    assert (span.position, span.missing) == (0, 4)


@given(
    size=st.integers(1, 500),
    steps=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 60), st.integers(2, 9)), max_size=40
    ),
    minimum=st.integers(1, 50),
)
def test_spans_that_were_split_cover_every_byte_once(
    size: int, steps: list[tuple[int, int, int]], minimum: int
) -> None:
    """However spans are filled and split meanwhile, together they are the whole stretch."""
    content = bytes(index % 251 for index in range(size))
    buffer = memoryview(bytearray(size))
    spans = [ByteRangeBuffer(1000, buffer)]
    for which, count, ways in steps:
        span = spans[which % len(spans)]
        arrived = min(count, span.missing)
        span.append(content[span.position - 1000 : span.position - 1000 + arrived])
        other = span.split_off(minimum, ways)
        if other is not None:
            assert span.missing >= minimum
            assert other.missing // (ways - 1) <= span.missing < other.missing // (ways - 1) + ways
            spans.append(other)

    ends = sorted((span.start, span.stop) for span in spans)
    assert ends[0][0] == 1000
    assert ends[-1][1] == 1000 + size
    assert all(first[1] == second[0] for first, second in itertools.pairwise(ends))
    for span in spans:
        span.append(content[span.position - 1000 : span.stop - 1000])
    assert bytes(buffer) == content
