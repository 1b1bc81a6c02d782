"""`hftransfer._core.json_stream`: objects that are read member by member."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core import json_stream
from hftransfer._core.json_stream import JsonStream

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _read(text: str) -> dict[str, Any]:
    stream = JsonStream(io.StringIO(text))
    found = {name: stream.value() for name in stream.members()}
    stream.end()
    return found


@given(
    value=st.dictionaries(st.text(), _VALUES, max_size=5),
    indent=st.none() | st.integers(0, 2),
    block=st.integers(1, 20),
)
def test_an_object_is_read_as_json_reads_it(
    value: dict[str, Any], indent: int | None, block: int
) -> None:
    """Wherever the text is cut into blocks: inside of numbers, escapes and names, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_BLOCK", block)
        assert _read(json.dumps(value, indent=indent)) == value


@given(value=st.dictionaries(st.text(), _VALUES, min_size=1, max_size=3), data=st.data())
def test_a_text_that_ends_too_early_is_an_error(value: dict[str, Any], data: st.DataObject) -> None:
    """Nothing is read as if it were complete."""
    text = json.dumps(value)
    cut = data.draw(st.integers(0, len(text) - 1))

    with pytest.raises(ValueError):
        _read(text[:cut])


@pytest.mark.parametrize("text", ["[]", "{1: 2}", '{"a" 1}', '{"a": 1,}', '{"a": 1} x', "nul"])
def test_other_texts_are_errors(text: str) -> None:
    """Not an object, no name, no colon, a comma too many, something behind it."""
    with pytest.raises(ValueError):
        _read(text)
