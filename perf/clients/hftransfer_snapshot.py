"""hftransfer.snapshot_download into a directory, which also records the bytes stored over time.

The timeline comes from the progress bar, which the engine updates once per chunk; that costs a
few additions. With ``--uvloop`` the event loops are uvloop's.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

_SAMPLE_SECONDS = 0.05


class Timeline:
    """A progress bar with tqdm's interface that records its bytes, at most once in 50 ms."""

    samples: list[tuple[float, int]] = []  # noqa: RUF012 - only one bar counts bytes

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
        """Record the last sample."""
        if self._counts_bytes:
            self.samples.append((time.clock_gettime(time.CLOCK_BOOTTIME), self._bytes))


def _process_start() -> float:
    """Return when this process started, in seconds since boot; see proc_pid_stat(5)."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    return ticks / 100  # USER_HZ is 100 on every Linux


def main() -> None:
    """Download the repository of the run."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    if "--uvloop" in sys.argv:
        import asyncio

        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    import hftransfer

    hftransfer.snapshot_download(
        spec["repo_id"],
        local_dir=spec["destination"],
        endpoint=spec["endpoint"],
        tqdm_class=Timeline,
    )
    start = _process_start()
    timeline = [(round(now - start, 3), count) for now, count in Timeline.samples]
    with open(spec["metrics_path"], "w") as file:
        json.dump({"timeline": timeline}, file)


if __name__ == "__main__":
    main()
