"""Which files of a listing are wanted: patterns by huggingface_hub's rules."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from hftransfer.stores.base import Entry

__all__ = ("Patterns", "select_entries")

Patterns: TypeAlias = str | Sequence[str] | None


def select_entries(
    entries: Sequence[Entry], allow_patterns: Patterns, ignore_patterns: Patterns
) -> Sequence[Entry]:
    """Return the entries that the patterns leave, by huggingface_hub's rules.

    Args:
        entries: what is there.
        allow_patterns: keep only paths that match one of these. ``*`` matches across
            ``/``; a pattern that ends in ``/`` means all below. Default: keep all.
        ignore_patterns: drop paths that match one of these.
    """
    allowed, ignored = _patterns(allow_patterns), _patterns(ignore_patterns)
    return [
        entry
        for entry in entries
        if (allowed is None or _matches(entry.path, allowed))
        and not (ignored is not None and _matches(entry.path, ignored))
    ]


def _patterns(patterns: Patterns) -> list[str] | None:
    if patterns is None:
        return None
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    return [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in given]


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
