"""How much memory there is: of the machine, or of the control group that this process is in."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("available_page_cache", "memory_limit")

_GROUP = Path("/sys/fs/cgroup")


def memory_limit(group: Path = _GROUP) -> int:
    """Return the bytes of memory of the control group (v2, then v1), or else of the machine."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in (group / "memory.max", group / "memory" / "memory.limit_in_bytes"):
        value = _number(path)
        if value is not None:
            limits.append(value)
    return min(limits)


def available_page_cache(group: Path = _GROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes that files may take in the page cache before something must give way.

    Pages of the cache itself count as free: they give way without harm.
    """
    rooms = [memory_limit(group)]
    available = _field(meminfo, "MemAvailable:")
    if available is not None:
        rooms.append(available * 1024)
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is not None and used is not None:
        cached = _field(group / "memory.stat", "file") or 0
        rooms.append(max(0, limit - used + cached))
    return min(rooms)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such control group version, or "max"
        return None


def _field(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[:1] == [name]:
            return int(fields[1])
    return None
