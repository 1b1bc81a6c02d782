"""`hftransfer._io.regular_file`: what is at a name that can be guessed is not written to."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from hftransfer._io.regular_file import UnsafeFileError, create_exclusive, open_regular
from support.files import descriptors

_CREATE = os.O_RDWR | os.O_CREAT


def _symlink(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def _dangling_symlink(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("new"))


def _hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def _fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path, victim: Path) -> None:
    path.mkdir()


def _socket(path: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    "plant", [_symlink, _dangling_symlink, _hard_link, _fifo, _folder, _socket]
)
def test_what_is_not_a_regular_file_of_one_name_is_refused(
    tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    """Nothing is created, changed or waited for, and no descriptor stays open."""
    victim, path, before = tmp_path / "victim", tmp_path / "f", descriptors()
    victim.write_bytes(b"content")
    plant(path, victim)

    for flags in (_CREATE, os.O_RDWR, os.O_WRONLY, _CREATE | os.O_TRUNC):
        if flags & os.O_TRUNC and plant is _hard_link:
            continue  # no caller truncates: open(2) would do it before the look at the file
        with pytest.raises(UnsafeFileError):
            open_regular(path, flags)
    with pytest.raises(FileExistsError):
        create_exclusive(path)

    assert victim.read_bytes() == b"content"
    assert {each.name for each in tmp_path.iterdir()} == {"victim", "f"}
    assert descriptors() == before


def test_a_regular_file_is_created_and_opened_again(tmp_path: Path) -> None:
    """With the permissions of the umask."""
    for _ in range(2):
        fd = open_regular(tmp_path / "f", _CREATE, 0o640)
        os.write(fd, b"x")
        os.close(fd)

    assert (tmp_path / "f").read_bytes() == b"x"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_refused_where_everybody_may_create_files(
    tmp_path: Path,
) -> None:
    """In /tmp its owner may have planted it; in the folder of a group it is a member's."""
    path = tmp_path / "f"
    path.touch()
    os.chown(path, 12345, -1)
    os.close(open_regular(path, os.O_RDWR))

    tmp_path.chmod(0o1777)
    with pytest.raises(UnsafeFileError, match="another user"):
        open_regular(path, os.O_RDWR)


def test_the_folder_of_a_new_file_is_created(tmp_path: Path) -> None:
    """Only if it is missing, which saves a call for each file."""
    os.close(create_exclusive(tmp_path / "a" / "b" / "f"))

    assert (tmp_path / "a" / "b" / "f").is_file()
