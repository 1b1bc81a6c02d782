"""Versions of local files: what changes whenever the content of a file changes.

A program can set a file's modification time, and unpacking an archive does. It cannot set the
change time (ctime): the kernel sets that to the current time at every write, truncation, rename
and change of attributes (inode(7)). So device, inode, size and change time name one content of one
file until the machine is restarted, with two exceptions, for which there is one function each:

- The kernel's clock for timestamps advances by ticks. Of two writes within one tick the second
  leaves the change time as it is (`settle_delay`).
- Stores to a shared memory mapping set the change time only when a page becomes dirty, and some
  file systems never set it (`VersionGuard`).

No I/O except in `machine_id`, which reads once, and `VersionGuard.now`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hftransfer._io.state_folder import boot_id

__all__ = ("FileVersion", "VersionGuard", "settle_delay", "untracked_devices")

_MOUNTS = Path("/proc/self/mountinfo")
_SECOND = 1_000_000_000
# Nanoseconds between two ticks of the slowest kernel (CONFIG_HZ=100).
_TICK = 10_000_000
# Nanoseconds between two timestamps of file systems that store whole or even seconds (FAT, HFS+).
_COARSE_TICK = 2 * _SECOND
# Nanoseconds after which a page that a memory mapping has made dirty is written to the disk, so
# that the next store to it sets the change time again: vm.dirty_expire_centisecs (30 s) and
# vm.dirty_writeback_centisecs (5 s), doubled.
_WRITEBACK = 70 * _SECOND
# File systems in memory never set the change time for a mapping; file systems in user space and
# 9p take inode numbers and times from programs that may not keep them.
_UNTRACKED = ("tmpfs", "ramfs", "hugetlbfs", "devtmpfs", "9p")
_UNTRACKED_PREFIX = "fuse"


class FileVersion(NamedTuple):
    """A file and its state; equal only if its content is the same, within the limits above."""

    device: int
    inode: int
    size: int
    """Bytes."""
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileVersion:
        """Return the version that ``stat(2)`` describes."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    @property
    def etag(self) -> str:
        """The version as text, unique among all machines and their restarts.

        After a restart a device can have another's number, and a machine without a clock of its
        own repeats its times.
        """
        return (
            f"{machine_id()}-{self.device:x}-{self.inode:x}-{self.size:x}"
            f"-{self.modified_ns:x}-{self.changed_ns:x}"
        )


def machine_id() -> str:
    """Return `boot_id`, or the name of the host where there is none."""
    return boot_id() or os.uname().nodename


def settle_delay(versions: Iterable[FileVersion], now_ns: int) -> float:
    """Return the seconds until a further write to any of the files changes its version.

    Args:
        versions: of files whose status was read at `now_ns` or earlier.
        now_ns: nanoseconds of `time.time_ns`.

    Returns:
        0.0 if that is so already. Files that were changed in the future, by a clock that was set
        back, are left out: no wait would help.
    """
    wait = 0
    for version in versions:
        coarse = version.changed_ns % _SECOND == 0
        age = now_ns - version.changed_ns
        if age >= 0:
            wait = max(wait, (_COARSE_TICK if coarse else _TICK) - age)
    return wait / _SECOND


def untracked_devices(mountinfo: str) -> Collection[int]:
    """Return the devices of the file systems on which a change can go unnoticed.

    Args:
        mountinfo: content of ``/proc/self/mountinfo``; see proc_pid_mountinfo(5).
    """
    devices = set()
    for line in mountinfo.splitlines():
        mount, separator, filesystem = line.partition(" - ")
        fields = mount.split()
        kind = filesystem.split()[:1]
        if not separator or len(fields) < 3 or not kind:
            continue
        major, _, minor = fields[2].partition(":")
        is_untracked = kind[0] in _UNTRACKED or kind[0].startswith(_UNTRACKED_PREFIX)
        if is_untracked and major.isdigit() and minor.isdigit():
            devices.add(os.makedev(int(major), int(minor)))
    return devices


@dataclass(frozen=True)
class VersionGuard:
    """Decides whether a version may be recorded, and later stand for the content without a look.

    A version is recorded only of a file that had rested for a while when it was read: then every
    page of it was on the disk, and any later store through a memory mapping sets the change time.
    """

    untracked: Collection[int]
    """Devices of `untracked_devices`."""
    rest_ns: int = _WRITEBACK
    """How long the file must not have changed, nanoseconds. Default 70 seconds."""

    @classmethod
    def now(cls) -> VersionGuard | None:
        """Return the guard for what is mounted now. Blocks.

        Returns:
            None if this system does not tell its last start or its mounts.
        """
        try:
            mounts = _MOUNTS.read_text("utf-8", errors="replace")
        except OSError:
            return None
        return cls(untracked_devices(mounts)) if boot_id() else None

    def accepts(self, version: FileVersion, now_ns: int) -> bool:
        """Return True if `version` may be recorded for the bytes that are read after `now_ns`."""
        rested = now_ns - version.changed_ns >= self.rest_ns
        return rested and version.device not in self.untracked
