"""`hftransfer._core.units`: sizes as options and the command line read and write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.units import format_size, parse_size
from hftransfer.errors import OptionsError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@given(st.integers(0, 1 << 53))
def test_a_plain_number_is_bytes(number: int) -> None:
    """Digits without a unit are read exactly."""
    assert parse_size(str(number)) == number


@given(
    number=st.integers(0, 1 << 20),
    unit=st.sampled_from(
        [("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("K", KIB), ("M", MIB), ("G", GIB)]
        + [("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("B", 1)]
    ),
    spaces=st.tuples(*[st.sampled_from(["", " "])] * 3),
    change=st.sampled_from([str.lower, str.upper, str.swapcase]),
)
def test_units(
    number: int,
    unit: tuple[str, int],
    spaces: tuple[str, str, str],
    change: Callable[[str], str],
) -> None:
    """Units are binary unless written like ``MB``; case and spaces do not matter."""
    name, factor = unit
    text = f"{spaces[0]}{number}{spaces[1]}{change(name)}{spaces[2]}"

    assert parse_size(text) == number * factor


def test_fractions_of_a_unit() -> None:
    """``1.5GiB`` is one and a half."""
    assert parse_size("1.5GiB") == 3 * GIB // 2


@pytest.mark.parametrize(
    "text", ["", "MiB", "8 apples", "8TiBs", "8ib", "8bk", "eight", "inf", "nan", "0x10", "1,5M"]
)
def test_other_text_is_rejected(text: str) -> None:
    """The message repeats the text and shows the form."""
    with pytest.raises(OptionsError, match="not a size such as 8388608 or 8MiB") as caught:
        parse_size(text)

    assert repr(text) in str(caught.value)


@given(st.text("0123456789.-+ekmgib infa_", max_size=10))
def test_any_text_is_a_size_or_an_options_error(text: str) -> None:
    """No other exception is raised, whatever the user typed."""
    try:
        assert isinstance(parse_size(text), int)
    except OptionsError:
        pass


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1.5 * MIB, "1.5 MiB"),
        (GIB, "1.00 GiB"),
        (3000 * GIB, "3000.00 GiB"),
    ],
)
def test_sizes_for_users(size: float, text: str) -> None:
    """The largest binary unit that the size reaches is used, up to GiB."""
    assert format_size(size) == text
