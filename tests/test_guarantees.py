"""`docs/guarantees.md` names tests that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[1]
_COMMANDS = re.findall(r"`pytest ([^`]+)`", (_CHECKOUT / "docs" / "guarantees.md").read_text())


@pytest.mark.parametrize("command", _COMMANDS)
def test_the_command_of_a_guarantee_selects_tests(command: str) -> None:
    """Its files exist, and what follows ``-k`` is a part of them."""
    words = shlex.split(command)
    paths = [_CHECKOUT / word for word in words if word.startswith("tests/")]
    text = "".join(path.read_text() for path in paths)

    assert paths
    if "-k" in words:
        assert words[words.index("-k") + 1] in text.lower()


def test_every_row_has_a_command() -> None:
    """A promise without a test is none."""
    rows = re.findall(r"^\| (?!promise|-|system|Linux|macOS|Windows).*\|$", _page(), re.MULTILINE)

    assert [row for row in rows if "`pytest " not in row and row != "|---|---|---|"] == []
    assert len(rows) >= len(_COMMANDS) > 20


def _page() -> str:
    return (_CHECKOUT / "docs" / "guarantees.md").read_text()
