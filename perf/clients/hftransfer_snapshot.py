"""hftransfer.snapshot_download into a folder, with the bytes stored over time.

The bar that it hands over is driven by the engine's own progress events; it costs a few
additions per chunk. With ``--uvloop`` the event loops are uvloop's.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

_SAMPLE_SECONDS = 0.05


class Timeline:
    """A bar in tqdm's shape that remembers its bytes, at most one sample each 50 ms."""

    samples: list[tuple[float, int]] = []  # noqa: RUF012 - of the one bar that counts bytes

    def __init__(self, *, unit: str = "it", total: int | None = None, **_: object) -> None:
        self.total = total
        self._counts_bytes = unit == "B"
        self._bytes = 0

    def update(self, count: float = 1) -> None:
        """Add `count` to the bar."""
        if not self._counts_bytes:
            return
        self._bytes += int(count)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self.samples and now - self.samples[-1][0] < _SAMPLE_SECONDS:
            return
        self.samples.append((now, self._bytes))

    def close(self) -> None:
        """Take the last sample."""
        if self._counts_bytes:
            self.samples.append((time.clock_gettime(time.CLOCK_BOOTTIME), self._bytes))


def _started() -> float:
    """Return when this process started, in seconds since boot."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    return ticks / 100  # USER_HZ is 100 on every Linux


def main() -> None:
    """Download what the job names."""
    with open(sys.argv[1]) as file:
        job: dict[str, Any] = json.load(file)
    if "--uvloop" in sys.argv:
        import asyncio

        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    import hftransfer

    hftransfer.snapshot_download(
        job["repo_id"],
        local_dir=job["destination"],
        endpoint=job["endpoint"],
        tqdm_class=Timeline,
    )
    start = _started()
    timeline = [(round(now - start, 3), count) for now, count in Timeline.samples]
    with open(job["facts"], "w") as file:
        json.dump({"timeline": timeline}, file)


if __name__ == "__main__":
    main()
