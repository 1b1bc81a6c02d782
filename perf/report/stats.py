"""Pairs and ratios: pure functions over numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TypeVar

__all__ = ("paired_ratio", "rotated", "slices")

T = TypeVar("T")


def rotated(items: Sequence[T], round_index: int) -> list[T]:
    """Return the order of one round: the same cycle, begun one place later in each round."""
    if not items:
        return []
    start = round_index % len(items)
    return [*items[start:], *items[:start]]


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """Return the median over common rounds of ours divided by theirs.

    Both map the index of a round to a positive number. What slows a whole round slows both, so
    the ratio within a round carries less noise than the ratio of two medians.

    Returns:
        None where no round has both.
    """
    ratios = [ours[index] / theirs[index] for index in ours if theirs.get(index)]
    return median(ratios) if ratios else None


def slices(size: int, length: int) -> list[tuple[int, int]]:
    """Return the half-open ranges of at most `length` bytes that make up `size` bytes."""
    return [(start, min(start + length, size)) for start in range(0, size, length)]
