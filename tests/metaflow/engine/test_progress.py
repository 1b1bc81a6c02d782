"""Progress lines, and the samples of a transfer."""

from __future__ import annotations

import pytest

pytest.importorskip("metaflow.decorators")

from hftransfer._core.events import BytesMoved, Recovered, TransferStarted, Waiting
from metaflow_extensions.hftransfer.plugins.engine.progress import (
    TransferProgress,
    format_duration,
)

pytestmark = pytest.mark.metaflow

MIB = 1 << 20


def test_the_interval_between_lines_grows() -> None:
    """A line per interval, which doubles after six lines: sizes, share, throughput, time left."""
    now, lines = [0.0], list[str]()
    progress = TransferProgress("org/model", lines.append, interval=10.0, clock=lambda: now[0])
    progress(TransferStarted(1, 1000 * MIB))
    for second in range(1, 301):
        now[0] = float(second)
        progress(BytesMoved("a", MIB))
    progress.finish()

    assert lines[0] == (
        "org/model: 10.0 MiB of 1000.0 MiB (1%), 0 of 1 files, 1.0 MiB/s, 16:30 min left"
    )
    assert len(lines) == 6 + 6 + 3
    assert len(progress.samples) <= 242
    assert not [line for line in lines if "\n" in line or "\r" in line]


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (125, "2:05 min"), (4200, "1:10 h"), (36000, "10:00 h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    """Seconds, minutes or hours, with two digits of the next smaller unit."""
    assert format_duration(seconds) == text


def test_an_outage_is_logged_as_often_as_progress() -> None:
    """Once per interval while it lasts, and its end."""
    lines: list[str] = []
    now = [0.0]
    progress = TransferProgress("acme/tiny", lines.append, interval=1000.0, clock=lambda: now[0])
    for second in (2.0, 3.0, 1500.0):
        now[0] = second
        progress(Waiting("http://host:1", "it answered 503", 3.0, second, requested=False))
    progress(Recovered("http://host:1", 1500.0))

    waits = [line for line in lines if "trying again" in line]
    assert len(waits) == 2
    assert waits[0].startswith("acme/tiny: no answer from http://host:1 for 2 s, trying again in 3")
    assert "acme/tiny: http://host:1 answers again after 1500 s" in lines
