"""`hftransfer._io.file_version`: what names a state of a file, and when that can be relied on."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hftransfer._io import file_version
from hftransfer._io.file_version import (
    FileVersion,
    VersionGuard,
    settle_delay,
    untracked_devices,
)
from hftransfer._io.state_folder import boot_id

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND + 123_456_789


def version(*, changed_ns: int, device: int = 1) -> FileVersion:
    return FileVersion(device=device, inode=2, size=3, modified_ns=0, changed_ns=changed_ns)


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"B")


def _write_mapping(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:1] = b"B"
        mapping.flush()


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"B" + path.read_bytes()[1:])
    os.replace(other, path)


@pytest.mark.parametrize("change", [_write, _write_mapping, _replace])
def test_a_change_of_the_content_is_another_version(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """Also if size and modification time are what they were before."""
    path = tmp_path / "f"
    path.write_bytes(b"A" * 100)
    os.utime(path, ns=(0, 0))
    before = FileVersion.of(path.stat())
    while settle_delay([before], time.time_ns()):
        pass  # at most one tick of the kernel's clock
    change(path)
    os.utime(path, ns=(0, 0))
    after = FileVersion.of(path.stat())

    assert (after.size, after.modified_ns) == (before.size, before.modified_ns)
    assert after.etag != before.etag


def test_reading_a_file_keeps_its_version(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"content")
    before = FileVersion.of(path.stat())
    path.read_bytes()

    assert FileVersion.of(path.stat()) == before


@pytest.mark.parametrize("field", FileVersion._fields)
def test_the_etag_depends_on_every_field(field: str) -> None:
    one = version(changed_ns=NOW)
    assert one._replace(**{field: getattr(one, field) + 1}).etag != one.etag


def test_the_etag_depends_on_the_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are numbered anew, and a clock without a battery starts again."""
    one = version(changed_ns=NOW)
    before = one.etag
    monkeypatch.setattr(file_version, "machine_id", lambda: "another")

    assert one.etag != before


@pytest.mark.parametrize(
    ("changed_ns", "delay"),
    [
        (NOW - 1_000_000, 0.009),  # within a tick of 10 ms
        (NOW - 10_000_000, 0.0),
        (NOW - 3 * SECOND, 0.0),
        (NOW - NOW % SECOND, 2 - 0.123456789),  # whole seconds: a coarse file system
        (NOW - NOW % SECOND - 2 * SECOND, 0.0),
        (NOW + SECOND, 0.0),  # the clock was set back
    ],
)
def test_a_version_settles_when_the_clock_has_advanced(changed_ns: int, delay: float) -> None:
    """Until then a further write could leave the change time as it is."""
    versions = [version(changed_ns=NOW - 60 * SECOND), version(changed_ns=changed_ns)]
    assert settle_delay(versions, NOW) == pytest.approx(delay)


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
23 22 0:21 / /dev/shm rw,nosuid shared:2 - tmpfs tmpfs rw
24 22 0:35 /a\\040b /mnt/s3 rw - fuse.s3fs s3fs rw
25 22 0:36 / /mnt/nfs rw - nfs4 server:/x rw
26 22 0:37 / /host rw shared:1 master:2 - 9p hostshare rw
a line of a later kernel
"""


def test_file_systems_that_miss_changes_are_recognised() -> None:
    """Those in memory, where a mapping sets no times, and those of other programs."""
    expected = {os.makedev(0, number) for number in (21, 35, 37)}
    assert set(untracked_devices(MOUNTS)) == expected


def test_only_a_file_that_has_rested_on_a_tracked_file_system_is_recorded() -> None:
    """70 seconds after the last change every page of the file has been written to the disk."""
    guard = VersionGuard(untracked={7})

    assert guard.accepts(version(changed_ns=NOW - 70 * SECOND), NOW)
    assert not guard.accepts(version(changed_ns=NOW - 69 * SECOND), NOW)
    assert not guard.accepts(version(changed_ns=NOW + SECOND), NOW)
    assert not guard.accepts(version(changed_ns=NOW - 70 * SECOND, device=7), NOW)


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="Linux only")
def test_this_system_tells_its_boot_and_its_mounts() -> None:
    """The device of /dev/shm, a tmpfs, is among those that are not recorded."""
    guard = VersionGuard.now()

    assert boot_id()
    assert guard is not None
    assert os.stat("/dev/shm").st_dev in guard.untracked


def test_a_system_without_a_boot_id_records_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There versions are not unique, so that contents are compared."""
    monkeypatch.setattr(file_version, "boot_id", lambda: "")
    assert VersionGuard.now() is None
    monkeypatch.undo()
    monkeypatch.setattr(file_version, "_MOUNTS", tmp_path / "none")
    assert VersionGuard.now() is None
