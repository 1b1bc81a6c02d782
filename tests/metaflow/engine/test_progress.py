"""Progress lines, and the samples of a transfer."""

from __future__ import annotations

import pytest

pytest.importorskip("metaflow.decorators")

from hftransfer._core.events import BytesMoved, TransferStarted
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
