"""`hftransfer._io.partial_file`, between real processes: locks, resuming, publishing, removal."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hftransfer._core.digests import chunk_digest
from hftransfer._io.partial_file import PartialFile, is_partial_file_name, remove_stale_partials
from hftransfer._io.process_identity import own_token
from hftransfer.errors import DestinationError, DiskFullError
from hftransfer.testing import no_flock
from support.local_files import without_privileges

CONTENT = "0123456789abcdef"
PREFIX = f"model.bin.{CONTENT}"
DATA = memoryview(b"AAAABBBBCC")
CHUNK = 4

_PREAMBLE = """
import os, resource, sys
from pathlib import Path
from hftransfer._io.partial_file import PartialFile
from hftransfer.errors import DiskFullError
folder, prefix = Path(sys.argv[1]), sys.argv[2]
"""
_WRITE_AND_WAIT = """
partial = PartialFile(folder, prefix, identity="id", size=10, chunk_size=4)
partial.write(1, 4, memoryview(b"BBBB"), sys.argv[3])
print(partial.path.name, flush=True)
sys.stdin.read()
"""


def _open(
    folder: Path, *, prefix: str = PREFIX, identity: str = "id", size: int = 10
) -> PartialFile:
    return PartialFile(folder, prefix, identity=identity, size=size, chunk_size=CHUNK)


def _fill(partial: PartialFile) -> None:
    for index, start in enumerate(range(0, len(DATA), CHUNK)):
        part = DATA[start : start + CHUNK]
        partial.write(index, start, part, chunk_digest(part))


_WITHOUT_FLOCK = """
from hftransfer.testing import no_flock
failing = no_flock()
failing.__enter__()
"""


@contextmanager
def _writer_process(
    folder: Path, *, flock: bool = True
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process that has written chunk 1 and locks its partial file until stdin closes."""
    command = [
        sys.executable,
        "-c",
        _PREAMBLE + ("" if flock else _WITHOUT_FLOCK) + _WRITE_AND_WAIT,
        str(folder),
        PREFIX,
        chunk_digest(DATA[4:8]),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_processes_never_share_a_partial_file(tmp_path: Path) -> None:
    """While another process has locked its partial file, the next number is used."""
    with _writer_process(tmp_path) as (_, locked_name):
        partial = _open(tmp_path)

        assert locked_name == f"{PREFIX}.0.incomplete"
        assert partial.path.name == f"{PREFIX}.1.incomplete"
        assert partial.resumable.chunks == {}
        partial.remove()
        assert _names(tmp_path) == [locked_name, f"{PREFIX}.0.journal.incomplete"]


def test_the_file_of_a_killed_process_is_resumed(tmp_path: Path) -> None:
    """After SIGKILL the next process gets the same file, with its journal and its bytes."""
    with _writer_process(tmp_path) as (process, locked_name):
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    partial = _open(tmp_path)

    assert partial.path.name == locked_name
    assert partial.resumable.chunks == {1: chunk_digest(DATA[4:8])}
    buffer = memoryview(bytearray(4))
    assert partial.read_into(4, buffer) == 4
    assert bytes(buffer) == b"BBBB"
    partial.close()


def test_without_flock_a_file_belongs_to_a_process_until_it_is_killed(tmp_path: Path) -> None:
    """Others use another number while it lives, and resume its file at once when it is dead."""
    with no_flock(), _writer_process(tmp_path, flock=False) as (process, locked_name):
        assert locked_name == f"{PREFIX}.0.incomplete"
        beside = _open(tmp_path)
        assert beside.path.name == f"{PREFIX}.1.incomplete"
        remove_stale_partials(tmp_path, {"model.bin"})
        assert locked_name in _names(tmp_path)
        process.kill()
        process.wait()

        resumed = _open(tmp_path)
        assert resumed.path.name == locked_name
        assert list(resumed.resumable.chunks) == [1]
        resumed.close()
        beside.close()
        remove_stale_partials(tmp_path, {"model.bin"})
        assert _names(tmp_path) == []


def test_the_lock_of_a_killed_process_is_removed_where_flock_works(tmp_path: Path) -> None:
    """The folder may be mounted on machines with and without flock."""
    with _writer_process(tmp_path, flock=False) as (process, _):
        process.kill()
        process.wait()

    remove_stale_partials(tmp_path, {"model.bin"})
    remove_stale_partials(tmp_path, {"model.bin"})  # the lock, once its file is gone

    assert _names(tmp_path) == []


def test_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """That of this process and a recent one of another machine stay."""
    code = "from hftransfer._io.process_identity import own_token; print(own_token(), end='')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    dead, old = f"{PREFIX}.{ended.stdout}.incomplete", f"{PREFIX}.{'0' * 32}.incomplete"
    own, elsewhere = f"{PREFIX}.{own_token()}.incomplete", f"{PREFIX}.{'1' * 32}.incomplete"
    for name in (dead, old, own, elsewhere):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (1, 1))
    os.utime(tmp_path / own, (time.time(), time.time()))

    remove_stale_partials(tmp_path, {"model.bin"})

    assert _names(tmp_path) == sorted([own, elsewhere])


def test_a_partial_file_that_was_replaced_is_not_published(tmp_path: Path) -> None:
    """A link that was planted at its name while it was written does not become the target."""
    partial = _open(tmp_path)
    _fill(partial)
    partial.path.unlink()
    (tmp_path / "victim").touch()
    partial.path.symlink_to("victim")

    with pytest.raises(DestinationError, match="replaced"):
        partial.publish(tmp_path / "done", fsync=False)
    partial.close()

    assert not os.path.lexists(tmp_path / "done")


def test_a_partial_file_of_another_user_is_passed_over(tmp_path: Path) -> None:
    """In a shared folder its permissions may not allow to resume it."""
    first = _open(tmp_path)
    first.close()
    first.path.chmod(0)
    program = f"""
        from hftransfer._io.partial_file import PartialFile
        partial = PartialFile(folder, {PREFIX!r}, identity="id", size=10, chunk_size=4)
        print(partial.path.name)
        partial.remove()
    """

    assert without_privileges(tmp_path, program) == f"{PREFIX}.1.incomplete\n"


@pytest.mark.parametrize(
    ("identity", "size"), [("other", 10), ("id", 11), ("", 10)], ids=["content", "size", "none"]
)
def test_other_content_is_not_resumed(tmp_path: Path, identity: str, size: int) -> None:
    """Another identity, another size or no identity means no resumable chunk."""
    first = _open(tmp_path)
    _fill(first)
    first.close()

    again = _open(tmp_path, identity=identity, size=size)

    assert again.path == first.path
    assert again.resumable.chunks == {}
    again.close()


def test_publish_replaces_the_target_and_leaves_nothing_else(tmp_path: Path) -> None:
    """The target is the new file as a whole; partial file and journal are deleted."""
    target = tmp_path / "model.bin"
    target.write_bytes(b"old and longer than the new content")
    with target.open("rb") as reader:
        for fsync in (False, True):
            partial = _open(tmp_path)
            _fill(partial)
            partial.publish(target, fsync=fsync)

            assert target.read_bytes() == bytes(DATA)
            assert _names(tmp_path) == ["model.bin"]
        assert reader.read().startswith(b"old")  # an open descriptor still reads the old file


def test_publish_into_a_missing_folder_is_a_destination_error(tmp_path: Path) -> None:
    """The error names the target, and the file can be resumed."""
    partial = _open(tmp_path)
    _fill(partial)

    with pytest.raises(DestinationError, match="missing/model.bin"):
        partial.publish(tmp_path / "missing" / "model.bin", fsync=False)

    partial.close()
    again = _open(tmp_path)
    assert sorted(again.resumable.chunks) == [0, 1, 2]
    again.remove()


def test_an_empty_file_is_published(tmp_path: Path) -> None:
    """It has no chunks."""
    partial = _open(tmp_path, size=0)
    partial.publish(tmp_path / "empty", fsync=False)

    assert (tmp_path / "empty").read_bytes() == b""


def test_reading_ends_with_the_file(tmp_path: Path) -> None:
    """`read_into` returns the number of bytes before the end."""
    partial = _open(tmp_path)
    _fill(partial)
    buffer = memoryview(bytearray(8))

    assert partial.read_into(8, buffer) == 2
    assert bytes(buffer[:2]) == b"CC"
    partial.remove()
    assert _names(tmp_path) == []


def test_a_missing_folder_is_a_destination_error(tmp_path: Path) -> None:
    """The message contains the folder and the reason."""
    with pytest.raises(DestinationError, match=r"gone.*No such file"):
        _open(tmp_path / "gone")


def _child(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + script, str(folder), PREFIX],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_a_file_over_the_size_limit_is_rejected_at_once(tmp_path: Path) -> None:
    """Space is reserved first: with a limit of 64 KiB, opening a file of 1 MiB fails."""
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    PartialFile(folder, prefix, identity="id", size=1 << 20, chunk_size=65536)
except DiskFullError as error:
    print(type(error).__name__, error)
"""
    assert _child(script, tmp_path).startswith("DiskFullError no space left to write")


def test_a_full_file_system_is_detected_at_once() -> None:
    """A file larger than the file system is a DiskFullError before any byte is written."""
    try:
        memory = os.statvfs("/dev/shm")
    except OSError:
        pytest.skip("no /dev/shm")
    mounts = Path("/proc/mounts").read_text().splitlines()
    if not any(line.split()[1:3] == ["/dev/shm", "tmpfs"] for line in mounts) or not (
        memory.f_blocks and os.access("/dev/shm", os.W_OK)
    ):
        pytest.skip("/dev/shm is not a writable tmpfs of limited size")
    folder = Path("/dev/shm", f"hftransfer-test-{os.getpid()}")
    folder.mkdir()
    try:
        with pytest.raises(DiskFullError, match="No space left"):
            _open(folder, size=memory.f_blocks * memory.f_frsize + (1 << 20))
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_published_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    """As any other file of the user."""
    script = """
os.umask(0o027)
partial = PartialFile(folder, prefix, identity="id", size=0, chunk_size=4)
partial.publish(folder / "done", fsync=False)
"""
    _child(script, tmp_path)

    assert stat.S_IMODE((tmp_path / "done").stat().st_mode) == 0o640


def test_stale_partial_files_are_removed_and_locked_ones_stay(tmp_path: Path) -> None:
    """Only unlocked partial files, with their journals, of the named files are deleted."""
    stale = _open(tmp_path, prefix="model.bin.aaaaaaaaaaaaaaaa")
    stale.close()
    other = _open(tmp_path, prefix="other.bin.aaaaaaaaaaaaaaaa")
    other.close()
    orphan = tmp_path / "model.bin.bbbbbbbbbbbbbbbb.0.journal.incomplete"
    orphan.touch()
    users_file = tmp_path / "model.bin.incomplete"
    users_file.touch()

    with _writer_process(tmp_path) as (_, locked_name):
        remove_stale_partials(tmp_path, {"model.bin"})

        assert _names(tmp_path) == sorted(
            [
                locked_name,
                f"{PREFIX}.0.journal.incomplete",
                users_file.name,
                other.path.name,
                other.journal.path.name,
            ]
        )


def test_stale_partial_files_of_a_missing_folder(tmp_path: Path) -> None:
    """There is nothing to delete, and no error."""
    remove_stale_partials(tmp_path / "gone", {"model.bin"})


def test_a_published_file_is_no_longer_locked(tmp_path: Path) -> None:
    """The lock ends with the transfer."""
    partial = _open(tmp_path)
    _fill(partial)
    partial.publish(tmp_path / "done", fsync=False)

    with (tmp_path / "done").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        (f"{PREFIX}.0.incomplete", True),
        (f"{PREFIX}.12.journal.incomplete", True),
        (f"{PREFIX}.{'ab' * 16}.incomplete", True),
        (f"line\nbreak.{CONTENT}.0.incomplete", True),
        ("model.bin.incomplete", False),
        (f"{PREFIX}.incomplete", False),
        (f"{PREFIX}.0.incomplete.bak", False),
        (f"{CONTENT}.0.incomplete", False),
    ],
)
def test_names_of_partial_files_are_recognised(name: str, is_ours: bool) -> None:
    """Only names that this package creates."""
    assert is_partial_file_name(name) is is_ours
