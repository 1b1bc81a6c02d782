"""Devices, FIFOs, sockets and files of the system: refused by name before any byte is moved."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hftransfer import Client, TransferOptions
from hftransfer.errors import DestinationError, UnsupportedError
from support.cli import run_cli
from support.files import make_tree, tree


def copy(source: Path | str, destination: Path, **arguments: str) -> int:
    with Client(TransferOptions()) as client:
        return client.copy(source, destination, **arguments).files  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("/dev/zero", "a character device"),
        ("/proc/cpuinfo", "a file of the system that has the size 0 and some content"),
        ("{tmp}/fifo", "a FIFO"),
        ("{tmp}/link", "a link that leads nowhere"),
    ],
)
def test_a_source_that_is_no_file_is_refused(tmp_path: Path, source: str, kind: str) -> None:
    """It would become an empty file, or be waited for without an end."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    location = source.format(tmp=tmp_path)
    with pytest.raises(UnsupportedError, match=f"{location} is {kind}"):
        copy(location, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_folder_with_one_is_refused_unless_it_is_excluded(tmp_path: Path) -> None:
    """The error names it and its kind; patterns select before the check."""
    folder = make_tree(tmp_path / "in")
    os.mkfifo(folder / "sub" / "pipe")
    with pytest.raises(UnsupportedError, match="'sub/pipe' is a FIFO; exclude what should not"):
        copy(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()

    assert copy(folder, tmp_path / "out", ignore_patterns="*/pipe") == 3
    assert set(tree(tmp_path / "out")) == {"a.bin", "sub/b.txt", "empty"}


def test_an_error_names_a_few_of_many(tmp_path: Path) -> None:
    make_tree(tmp_path / "in")
    for number in range(7):
        os.mkfifo(tmp_path / "in" / f"pipe{number}")
    with pytest.raises(UnsupportedError, match="'pipe4' is a FIFO, and 2 more;"):
        copy(tmp_path / "in", tmp_path / "out")


def test_the_folder_can_be_listed(tmp_path: Path) -> None:
    """``ls`` opens nothing."""
    make_tree(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "pipe")
    finished = run_cli("ls", tmp_path / "in")

    assert finished.returncode == 0
    assert "pipe" in finished.stdout


def test_a_fifo_as_destination_is_not_replaced(tmp_path: Path) -> None:
    """A copy to /dev/null as root would replace the device by a file."""
    (tmp_path / "f").write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DestinationError, match="it is a FIFO, which a file would replace"):
        copy(tmp_path / "f", tmp_path / "pipe")

    assert (tmp_path / "pipe").is_fifo()
