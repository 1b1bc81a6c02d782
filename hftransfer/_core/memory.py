"""How much memory this process may use: the limits of the machine, its control groups and itself.

A process belongs to a control group, and the limits of all groups above it apply too: those of a
container, a slice of systemd, or a job and its steps in Slurm. ``/proc/self/cgroup`` names the
group, ``/proc/self/mountinfo`` where the hierarchies are mounted, see cgroups(7) and
https://docs.kernel.org/admin-guide/cgroup-v2.html. Version 1 has a hierarchy for the memory
controller, version 2 one for all controllers; a machine may have both.

The files of ``/proc`` and ``/sys`` are read when a function is called, in the calling thread; this
does not wait for a disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ("available_page_cache", "memory_limit")

_ROOT = Path("/")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class _Names:
    """The names of the files of one version of control groups."""

    limits: tuple[str, ...]
    """Bytes. Above ``memory.high`` the kernel slows a process down and reclaims its memory."""
    usage: str
    cache: str
    """Field of ``memory.stat``: bytes of the page cache of the group and of those below it."""


_VERSION_1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_cache")
_VERSION_2 = _Names(("memory.max", "memory.high"), "memory.current", "file")


@dataclass(frozen=True)
class _Group:
    """One control group: the process's own, or one above it."""

    folder: Path
    names: _Names

    @property
    def limit(self) -> int | None:
        """The smallest limit in bytes; None if there is none."""
        limits = [_number(self.folder / name) for name in self.names.limits]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def free(self) -> int | None:
        """Bytes that are unused or page cache; None without a limit."""
        limit, used = self.limit, _number(self.folder / self.names.usage)
        if limit is None or used is None:
            return None
        return max(0, limit - used + (_field(self.folder / "memory.stat", self.names.cache) or 0))


def memory_limit(root: Path = _ROOT) -> int:
    """Return the smallest limit of this process's memory, in bytes.

    The limits are the memory of the machine, those of the process's control group and of every
    group above it, and that of its address space (``RLIMIT_AS``, ``ulimit -v``).

    Args:
        root: the folder with ``proc`` and ``sys``. Default: ``/``.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [limit for group in _groups(root) if (limit := group.limit) is not None]
    if (address_space := _address_space(root)) is not None:
        limits.append(address_space)
    return min(limits)


def available_page_cache(root: Path = _ROOT) -> int:
    """Return the bytes of files that the page cache can take without displacing other memory.

    Pages of the cache count as free: the kernel reclaims them without writing them anywhere.

    Args:
        root: the folder with ``proc`` and ``sys``. Default: ``/``.
    """
    limits = [memory_limit(root)]
    available = _field(root / "proc/meminfo", "MemAvailable:")
    if available is not None:
        limits.append(available * 1024)
    limits += [free for group in _groups(root) if (free := group.free) is not None]
    return min(limits)


def _groups(root: Path) -> Iterator[_Group]:
    """Yield the control groups of this process that can limit memory, each before its parent."""
    own = _own_groups(root)
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), [*after.split(), "", "", ""][:3]
        if kind == "cgroup" and "memory" in options.split(","):
            names = _VERSION_1
        elif kind == "cgroup2":
            names = _VERSION_2
        else:
            continue
        group = own.get(kind)
        if group is None or len(fields) < 5:
            continue
        mounted = root / _unescaped(fields[4]).lstrip("/")
        folder = mounted / _below(group, _unescaped(fields[3]))
        for each in (folder, *folder.parents):
            yield _Group(each, names)
            if each == mounted:
                break


def _own_groups(root: Path) -> dict[str, str]:
    """Return the paths of this process's groups by the file system type of their hierarchy."""
    own = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            own["cgroup2"] = path
        elif "memory" in controllers.split(","):
            own["cgroup"] = path
    return own


def _below(group: str, mounted: str) -> str:
    """Return the path of `group` below the mount point at which the group `mounted` is.

    A container that shares the host's view of the groups has only its own group mounted. A group
    outside of what is mounted (``/../…`` in a namespace) cannot be read: the mount point's own
    limits are the closest ones that apply.
    """
    mounted = mounted.rstrip("/")
    if (group != mounted and not group.startswith(f"{mounted}/")) or ".." in group.split("/"):
        return ""
    return group[len(mounted) :].strip("/")


def _address_space(root: Path) -> int | None:
    """Return the soft limit of the address space, in bytes; None if there is none."""
    for line in _lines(root / "proc/self/limits"):
        if line.startswith("Max address space"):
            text = line.split()[3]
            return int(text) if text.isdecimal() else None
    return None


def _unescaped(path: str) -> str:
    """Return a path of ``mountinfo``, in which blanks and backslashes are octal numbers."""
    return _ESCAPE.sub(lambda matched: chr(int(matched[1], 8)), path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent in the root group, or "max"
        return None


def _field(path: Path, name: str) -> int | None:
    for line in _lines(path):
        fields = line.split()
        if len(fields) > 1 and fields[0] == name and fields[1].isdecimal():
            return int(fields[1])
    return None
