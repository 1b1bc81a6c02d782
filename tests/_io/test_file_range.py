"""`hftransfer._io.file_range`: ranges of files and memory, hashed and sent."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._io.file_range import FileRange, MemoryRange, as_body_range
from hftransfer.errors import AccessError, SourceChangedError, TransferError
from support.http import in_file, opened_file

CONTENT = os.urandom(100_000)


@contextmanager
def file_of(content: bytes) -> Iterator[FileRange]:
    with (
        tempfile.TemporaryDirectory() as folder,
        in_file(Path(folder) / "f", content) as body,
    ):
        yield body


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    return path


@given(content=st.binary(max_size=300), data=st.data())
def test_a_subrange_is_a_slice(content: bytes, data: st.DataObject) -> None:
    """A subrange of a subrange has the bytes of a slice of a slice, in memory and in a file."""
    with file_of(content) as whole:
        expected = content
        for _ in range(2):
            start = data.draw(st.integers(0, len(expected)))
            size = data.draw(st.integers(0, len(expected) - start))
            whole, expected = whole.subrange(start, size), expected[start : start + size]
        start = data.draw(st.integers(0, len(expected)))
        size = data.draw(st.integers(0, len(expected) - start))
        for body in (whole, as_body_range(expected)):
            assert len(body) == len(expected)
            assert body.get(start, size) == expected[start : start + size]
            assert body.get_nowait(start, size) in (None, expected[start : start + size])


@given(content=st.binary(max_size=300), window=st.integers(1, 400), start=st.integers(0, 300))
def test_digests_do_not_depend_on_the_window(content: bytes, window: int, start: int) -> None:
    """For any window size, and with several algorithms at once."""
    start = min(start, len(content))
    with file_of(content) as whole:
        part = whole.subrange(start, len(content) - start)
        found = part.digests(["xxhash128", "crc32", "md5", "crc32"], memoryview(bytearray(window)))

    rest = content[start:]
    crc = f"{zlib.crc32(rest):08x}"
    md5 = hashlib.md5(rest, usedforsecurity=False).hexdigest()
    assert found == [xxhash.xxh3_128_hexdigest(rest), crc, md5, crc]


def receive(body: FileRange | MemoryRange) -> bytes:
    """Return the bytes that arrive when a range is sent through a socket in small pieces."""
    here, there = socket.socketpair()
    received = bytearray()
    with here, there:
        sent = 0
        while sent < len(body):
            sent += body.send(here, sent, min(10_000, len(body) - sent))
            while len(received) < sent:
                received += there.recv(sent - len(received))
    return bytes(received)


@pytest.mark.parametrize("code", [None, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_subrange_is_sent_exactly(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """By sendfile, or by a copy if the file system does not support it."""
    if code is not None:

        def sendfile(out: int, fd: int, offset: int, count: int) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "sendfile", sendfile)
    with opened_file(path) as whole:
        assert receive(whole.subrange(1000, 50_000)) == CONTENT[1000:51_000]


def test_errors_of_the_socket_are_raised_unchanged(path: Path) -> None:
    """A full or a closed socket is not an error of the file."""
    with opened_file(path) as whole:
        here, there = socket.socketpair()
        with here:
            with there:
                here.setblocking(False)
                with pytest.raises(BlockingIOError):
                    while True:
                        whole.send(here, 0, len(whole))
            with pytest.raises(BrokenPipeError):
                whole.send(here, 0, len(whole))


READERS: dict[str, Callable[[FileRange], object]] = {
    "get": lambda body: body.get(0, len(body)),
    "get_nowait": lambda body: body.get_nowait(0, len(body)),
    "digests": lambda body: body.digests(["md5"], memoryview(bytearray(1000))),
    "send": lambda body: receive(body),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_became_shorter_is_an_error(path: Path, reader: str) -> None:
    """Missing bytes are not padded, whatever reads them."""
    with opened_file(path) as whole:
        os.truncate(path, len(CONTENT) - 1)
        with pytest.raises(SourceChangedError, match=r"model\.bin was changed while it was being"):
            READERS[reader](whole)


def _rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(0, 0))  # in case the clock has not advanced


@pytest.mark.parametrize("change", [_rewrite, lambda path: os.truncate(path, 200_000)])
def test_a_write_during_use_is_detected(path: Path, change: Callable[[Path], None]) -> None:
    """Digests are those of the original bytes, or there is an error."""
    with opened_file(path) as whole:
        part = whole.subrange(0, 1000)
        part.check_unchanged()
        change(path)
        with pytest.raises(SourceChangedError, match=r"model\.bin was changed"):
            part.check_unchanged()
        with pytest.raises(SourceChangedError, match=r"model\.bin was changed"):
            part.digests(["md5"], memoryview(bytearray(1000)))


@pytest.mark.parametrize("reader", ["get", "get_nowait", "digests"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EIO, TransferError),
        (errno.EACCES, AccessError),
        (errno.ESTALE, TransferError),
        (errno.ENOENT, SourceChangedError),
    ],
)
def test_a_read_error_names_the_file(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reader: str,
    code: int,
    expected: type[TransferError],
) -> None:
    """Errors of the disk and of a network file system are mapped to ours."""

    def preadv(fd: int, buffers: object, offset: int, flags: int = 0) -> int:
        raise OSError(code, os.strerror(code))

    with opened_file(path) as whole:
        monkeypatch.setattr(os, "preadv", preadv)
        with pytest.raises(expected, match=r"model\.bin"):
            READERS[reader](whole)


def test_a_disk_error_while_sending_names_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not a failure of the connection, which would be retried."""

    def sendfile(out: int, fd: int, offset: int, count: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "sendfile", sendfile)
    with (
        opened_file(path) as whole,
        pytest.raises(TransferError, match=r"cannot read .*model\.bin"),
    ):
        receive(whole)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EOPNOTSUPP])
def test_get_nowait_does_not_wait_for_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """It returns None, also if the file system has no such read; `get` waits."""
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(code, os.strerror(code))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with opened_file(path) as whole:
        assert whole.get_nowait(0, 10) is None
        assert whole.get(0, 10) == CONTENT[:10]
