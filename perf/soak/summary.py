"""What a soak found: counts, problems, and whether the long-lived processes stayed flat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from perf.soak.plan import Episode

__all__ = ("Outcome", "Resources", "Summary")

# Growth from the first half of a soak to the second that is noise: allocators and pools keep what
# the largest transfer so far needed.
_RSS_GROWTH = 0.10
_RSS_GROWTH_KB = 16 * 1024
_GROWTH = {
    "descriptors": 16,  # idle connections
    "threads": 40,  # idle workers, of which anyio keeps as many at most
}
_LEAST_SAMPLES = 40  # fewer are dominated by the first transfers


@dataclass(frozen=True)
class Resources:
    """What a process holds while it is idle."""

    rss_kb: int
    descriptors: int
    threads: int


@dataclass
class Outcome:
    """What one episode came to."""

    lane: int
    episode: Episode
    problem: str | None = None
    """What went wrong; None if the result equals its source and nothing was left behind."""
    kills: int = 0
    resources: Resources | None = None
    """Of the process, if it goes on living."""


@dataclass
class Summary:
    """The outcomes of a soak so far."""

    seed: int
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def problems(self) -> Sequence[Outcome]:
        """Episodes with a wrong or missing result, a leftover, an error or a standstill."""
        return [outcome for outcome in self.outcomes if outcome.problem is not None]

    def growth(self) -> Sequence[str]:
        """Return one sentence for each resource that a long-lived process did not keep flat."""
        sentences = []
        for lane in sorted({outcome.lane for outcome in self.outcomes}):
            held = [
                outcome.resources
                for outcome in self.outcomes
                if outcome.lane == lane and outcome.resources is not None
            ]
            if len(held) >= _LEAST_SAMPLES:
                sentences += [f"worker {lane}: {each}" for each in _growth(held)]
        return sentences

    def to_json(self, faults: Mapping[str, int], minutes: float) -> dict[str, Any]:
        """Return everything that is reported, for one line of JSON."""
        directions = Counter(outcome.episode.direction.value for outcome in self.outcomes)
        last = {
            outcome.lane: asdict(outcome.resources)
            for outcome in self.outcomes
            if outcome.resources is not None
        }
        return {
            "seed": self.seed,
            "minutes": round(minutes, 1),
            "transfers": len(self.outcomes),
            "bytes": sum(outcome.episode.files.bytes for outcome in self.outcomes),
            "directions": dict(sorted(directions.items())),
            "kills": sum(outcome.kills for outcome in self.outcomes),
            "pairs": sum(outcome.episode.pair for outcome in self.outcomes),
            "faults": dict(sorted(faults.items())),
            "resources": last,
            "growth": list(self.growth()),
            "problems": [_describe(outcome) for outcome in self.problems],
        }


def _growth(held: Sequence[Resources]) -> list[str]:
    middle = len(held) // 2
    early, late = held[:middle], held[middle:]
    found = []
    before, after = (max(each.rss_kb for each in half) for half in (early, late))
    if after > before * (1 + _RSS_GROWTH) + _RSS_GROWTH_KB:
        found.append(f"RSS grew from {before // 1024} to {after // 1024} MiB")
    for name, allowed in _GROWTH.items():
        before, after = (max(getattr(each, name) for each in half) for half in (early, late))
        if after > before + allowed:
            found.append(f"{name} grew from {before} to {after}")
    return found


def _describe(outcome: Outcome) -> str:
    episode = outcome.episode
    return (
        f"lane {outcome.lane}, episode {episode.number}, {episode.direction.value} of "
        f"{episode.files.name!r}, {outcome.kills} kills{', a pair' if episode.pair else ''}: "
        f"{outcome.problem}"
    )
