"""How much memory this process may use: that of the machine or of its control group.

The files of ``/proc`` and ``/sys`` are read when a function is called, in the calling thread; this
does not wait for a disk.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("available_page_cache", "memory_limit")

_GROUP = Path("/sys/fs/cgroup")


def memory_limit(group: Path = _GROUP) -> int:
    """Return the smallest of the memory limits of the machine and the control group, in bytes.

    Args:
        group: the folder of the control group, version 1 or 2. Default: ``/sys/fs/cgroup``.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in (group / "memory.max", group / "memory" / "memory.limit_in_bytes"):
        value = _number(path)
        if value is not None:
            limits.append(value)
    return min(limits)


def available_page_cache(group: Path = _GROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes of files that the page cache can take without displacing other memory.

    Pages of the cache count as free: the kernel reclaims them without writing them anywhere.

    Args:
        group: the folder of the control group. Default: ``/sys/fs/cgroup``.
        meminfo: the kernel's memory statistics. Default: ``/proc/meminfo``.
    """
    limits = [memory_limit(group)]
    available = _field(meminfo, "MemAvailable:")
    if available is not None:
        limits.append(available * 1024)
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is not None and used is not None:
        cached = _field(group / "memory.stat", "file") or 0
        limits.append(max(0, limit - used + cached))
    return min(limits)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # another version of control groups, or "max"
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
