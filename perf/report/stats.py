"""Order of runs and ratios between them: pure functions over numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TypeVar

__all__ = ("paired_ratio", "rotated")

T = TypeVar("T")


def rotated(items: Sequence[T], round_index: int) -> list[T]:
    """Return `items` rotated left by `round_index` places: the order of the tools in a round."""
    if not items:
        return []
    start = round_index % len(items)
    return [*items[start:], *items[:start]]


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """Return the median, over the rounds that both have, of ours divided by theirs.

    A disturbance that lasts a whole round slows both tools, so the ratio within a round has less
    noise than the ratio of the two medians.

    Args:
        ours: positive measurements by index of the round.
        theirs: the same of the other tool.

    Returns:
        None if no round has both.
    """
    ratios = [ours[index] / theirs[index] for index in ours if theirs.get(index)]
    return median(ratios) if ratios else None
