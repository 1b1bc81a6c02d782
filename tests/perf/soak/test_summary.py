"""`perf.soak.summary`: what counts as growth and what is reported."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import pytest

from perf.soak.plan import episodes
from perf.soak.summary import Outcome, Resources, Summary

FLAT = Resources(rss_kb=100_000, descriptors=20, threads=10)


def _summary(held: Sequence[Resources], **first: object) -> Summary:
    planned = islice(episodes(1, 0, kill=False), len(held))
    outcomes = [
        Outcome(0, episode, resources=each) for episode, each in zip(planned, held, strict=True)
    ]
    for name, value in first.items():
        setattr(outcomes[0], name, value)
    return Summary(1, outcomes)


def test_a_process_that_holds_the_same_is_flat() -> None:
    """Also if it has peaks, as long as they are not higher later than at first."""
    peak = Resources(150_000, 30, 40)

    assert _summary([FLAT, peak, *[FLAT] * 20, peak, *[FLAT] * 20]).growth() == []


@pytest.mark.parametrize(
    ("grown", "word"),
    [
        (Resources(140_000, 20, 10), "RSS"),
        (Resources(100_000, 40, 10), "descriptors"),
        (Resources(100_000, 20, 60), "threads"),
    ],
)
def test_growth_from_the_first_half_to_the_second_is_reported(grown: Resources, word: str) -> None:
    """Each resource by itself, with the number of the worker."""
    (sentence,) = _summary([FLAT] * 40 + [grown]).growth()

    assert sentence.startswith("worker 0: ")
    assert word in sentence


def test_a_problem_is_reported_with_its_episode() -> None:
    """So that it can be found in the log and run again."""
    summary = _summary([FLAT], problem="x differs", kills=2)

    report = summary.to_json({"reset": 3}, minutes=1.25)

    assert report["kills"] == 2
    assert report["faults"] == {"reset": 3}
    (problem,) = report["problems"]
    assert problem.endswith("x differs")
    assert summary.outcomes[0].episode.direction.value in problem
