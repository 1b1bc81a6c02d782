"""What happens in a soak. No I/O: a seed gives the same episodes and conditions every time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from perf.run.dataset import FileSpec

__all__ = ("Direction", "Episode", "FileSet", "Weather", "episodes", "file_sets", "weather")

_MIB = 1 << 20
# Of the line: bytes per second; None for no limit.
_LINE_RATES = (None, None, None, 64 * _MIB, 16 * _MIB, 4 * _MIB)
_MAX_KILLS = 4
_KILL_SHARE = 0.7
_PAIR_SHARE = 0.2
_FAULT_RATES = (0.0, 0.02, 0.1)
_WEATHER_SECONDS = (4.0, 20.0)
_OUTAGE_SHARE = 0.2
_OUTAGE_SECONDS = (1.0, 12.0)


class Direction(Enum):
    """From which kind of place to which kind of place."""

    HUB_TO_DISK = "hub-to-disk"
    HUB_TO_S3 = "hub-to-s3"
    DISK_TO_S3 = "disk-to-s3"
    S3_TO_DISK = "s3-to-disk"
    S3_TO_S3 = "s3-to-s3"
    DISK_TO_DISK = "disk-to-disk"


@dataclass(frozen=True)
class FileSet:
    """The files of one source."""

    name: str
    files: Sequence[FileSpec]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Episode:
    """One transfer and what happens during it."""

    number: int
    direction: Direction
    files: FileSet
    kills: Sequence[float]
    """When to kill the process, as shares of the time that the transfer would take undisturbed;
    it is started again after each. Empty in lanes that do not start a process for each episode."""
    pair: bool
    """Two processes transfer to the same place at the same time."""


@dataclass(frozen=True)
class Weather:
    """The condition of all lines for some time."""

    seconds: float
    bytes_per_second: int | None
    """Of all connections to one server together, in each direction; None for no limit."""
    fault_rate: float
    """Share of new connections that are cut, reset, stalled, slowed down or damaged."""
    outage: float
    """Seconds for which the servers then refuse connections; 0 for none."""


def file_sets() -> Sequence[FileSet]:
    """Return the sources: one large file, some of a few chunks, and many small ones."""
    generator = random.Random("hftransfer soak: files")
    large = [FileSpec("model.safetensors", 96 * _MIB + 12_345), FileSpec("config.json", 700)]
    few = [
        FileSpec(f"model-{index:05}.safetensors", generator.randrange(_MIB, 24 * _MIB))
        for index in range(6)
    ]
    many = [
        FileSpec(f"part/{index:04}.json", generator.randrange(64 << 10)) for index in range(200)
    ]
    edges = [
        FileSpec(f"edge-{size}.bin", size) for size in (0, 1, 8 * _MIB - 1, 8 * _MIB, 8 * _MIB + 1)
    ]
    return (
        FileSet("large", large),
        FileSet("few", [*few, *edges]),
        FileSet("many", many),
    )


def episodes(seed: int, lane: int, *, kill: bool) -> Iterator[Episode]:
    """Yield the episodes of a lane, without end.

    Args:
        seed: of the soak.
        lane: its number.
        kill: the lane starts a process for each episode, and may kill it.
    """
    generator = random.Random(f"hftransfer soak: {seed}/{lane}")
    sources = file_sets()
    number = 0
    while True:
        killed = kill and generator.random() < _KILL_SHARE
        count = generator.randint(1, _MAX_KILLS) if killed else 0
        yield Episode(
            number=number,
            direction=generator.choice(list(Direction)),
            files=generator.choice(sources),
            kills=[generator.uniform(0.05, 1.1) for _ in range(count)],
            pair=kill and generator.random() < _PAIR_SHARE,
        )
        number += 1


def weather(seed: int) -> Iterator[Weather]:
    """Yield the conditions of the lines, one after the other, without end.

    Args:
        seed: of the soak.
    """
    generator = random.Random(f"hftransfer soak: {seed}, weather")
    while True:
        outage = generator.random() < _OUTAGE_SHARE
        yield Weather(
            seconds=generator.uniform(*_WEATHER_SECONDS),
            bytes_per_second=generator.choice(_LINE_RATES),
            fault_rate=generator.choice(_FAULT_RATES),
            outage=generator.uniform(*_OUTAGE_SECONDS) if outage else 0.0,
        )
