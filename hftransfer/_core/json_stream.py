"""Reads a JSON text of any length piece by piece: the members of its objects, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ("JsonStream",)

# Characters. A value that is longer is read by doubling.
_BLOCK = 1 << 16
_BLANKS = " \t\r\n"
_DELIMITERS = frozenset(",:]}" + _BLANKS)


class JsonStream:
    """A JSON text, read from its beginning.

    Args:
        file: open for reading, at the beginning of the text.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        """Characters of `_text` that are consumed."""
        self._is_complete = False
        """True if the rest of the file is in `_text`."""

    def members(self) -> Iterator[str]:
        """Yield the names of an object's members.

        The caller must consume the value of each, by `value` or `members`, before the next.

        Raises:
            ValueError: if the text is not that of an object, or ends too early.
        """
        self._expect("{")
        if self._next() == "}":
            self._expect("}")
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise ValueError("the name of a member is not a string")
            self._expect(":")
            yield name
            if self._next() == "}":
                self._expect("}")
                return
            self._expect(",")

    def value(self) -> Any:
        """Return the next value, all of which is read.

        Raises:
            ValueError: if the text is not JSON, or ends too early.
        """
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except ValueError:
                if not self._read():
                    raise
                continue
            # A number that is cut off (``1``, ``1.`` or ``1e`` of ``1e5``) is one, too, so what
            # follows must have arrived.
            if self._text[end : end + 1] in _DELIMITERS or not self._read():
                self._at = end
                return value

    def end(self) -> None:
        """Check that nothing follows.

        Raises:
            ValueError: if something does.
        """
        if self._next():
            raise ValueError("the text continues after its value")

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise ValueError(f"{character!r} expected")
        self._at += 1

    def _next(self) -> str:
        """Skip blanks; return the next character without consuming it, "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANKS:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _read(self) -> bool:
        """Read more of the file, as much as is left unconsumed; return False at its end."""
        if self._is_complete:
            return False
        left = self._text[self._at :]
        block = self._file.read(max(_BLOCK, len(left)))
        self._is_complete = not block
        self._text, self._at = left + block, 0
        return bool(block)
