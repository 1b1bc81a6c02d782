"""Planted links, file systems without flock and slow ones: whole transfers, and what they leave."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from huggingface_hub import constants

import hftransfer
from hftransfer._core.digests import chunk_digest
from hftransfer._io.partial_file import PartialFile
from hftransfer.errors import DestinationError
from hftransfer.stores.local.sink import partial_file_prefix
from hftransfer.testing import HubServer, RandomFile, Repo, SlowFileSystem, no_flock
from support.downloads import contents, expected
from support.files import descriptors, tree

_SIZE = 3 << 20
_FILES = {"big.bin": RandomFile(_SIZE, seed=5), "sub/other.bin": RandomFile(_SIZE, seed=6)}
_SMALL = {f"d{number % 4}/f{number}.json": b"%d" % number for number in range(60)}
_VICTIM = b"content of the victim"

Download = Callable[[], object]


@pytest.fixture
def repo(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository with two files of several chunks and many small ones."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    for name, value in hub.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HFTRANSFER_CHUNK_SIZE", str(1 << 20))
    return hub.create_repo("acme/planted", files={**_FILES, **_SMALL})


def _downloads(folder: Path) -> dict[str, tuple[Download, Path]]:
    """Return each way of downloading, with the folder in which its files are afterwards."""
    snapshots = folder / "cache" / "models--acme--planted" / "snapshots"
    return {
        "copy": (partial(hftransfer.copy, "hf://acme/planted", folder / "out"), folder / "out"),
        "cache": (
            partial(hftransfer.snapshot_download, "acme/planted", cache_dir=folder / "cache"),
            snapshots,
        ),
        "local_dir": (
            partial(hftransfer.snapshot_download, "acme/planted", local_dir=folder / "local"),
            folder / "local",
        ),
    }


_WAYS = sorted(_downloads(Path()))


def _files(folder: Path, repo: Repo) -> dict[str, bytes]:
    commit = folder / repo.find("main").id
    return contents(commit if folder.name == "snapshots" else folder)


def _leftovers(folder: Path) -> list[str]:
    """Return the files that a finished download must not leave."""
    suffixes = (".incomplete", ".owner", ".lock")
    return [name for name in tree(folder) if name.endswith(suffixes)]


def _interrupted(download: Download) -> None:
    """Run a download in which no large file can get its final name."""

    def publish(partial_file: PartialFile, target: Path, *, fsync: bool) -> None:
        raise DestinationError(f"cannot write {target}")

    with mock.patch.object(PartialFile, "publish", publish), pytest.raises(OSError, match="cannot"):
        download()


def _plant_symlink(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def _plant_hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def _plant_fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("kind", ["data", "journal"])
@pytest.mark.parametrize("plant", [_plant_symlink, _plant_hard_link, _plant_fifo])
def test_what_is_planted_at_the_name_of_a_partial_file_is_not_written(
    repo: Repo, tmp_path: Path, way: str, kind: str, plant: Callable[[Path, Path], None]
) -> None:
    """The victim keeps its content, and the published file is a regular one with the content."""
    download, folder = _downloads(tmp_path)[way]
    victim = tmp_path / "victim"
    victim.write_bytes(_VICTIM)
    suffix = "journal.incomplete" if kind == "journal" else "incomplete"
    for path in _partial_stems(tmp_path, way, repo):
        path.parent.mkdir(parents=True, exist_ok=True)
        plant(path.with_name(f"{path.name}.0.{suffix}"), victim)

    download()

    assert victim.read_bytes() == _VICTIM
    # What was planted at the name of a data file is passed over and stays.
    found = _files(folder, repo)
    assert {k: v for k, v in found.items() if not k.endswith(".incomplete")} == expected(repo)
    published = folder / repo.find("main").id if way == "cache" else folder
    assert (published / "big.bin").resolve() != victim
    assert (published / "big.bin").resolve().stat().st_nlink == 1


def _partial_stems(folder: Path, way: str, repo: Repo) -> list[Path]:
    """Return the names of the partial files of the two large files, without number and suffix."""
    stems = []
    for path, blob in repo.find("main").files.items():
        if path not in _FILES:
            continue
        etag = blob.etag
        if way == "copy":
            target = folder / "out" / path
            digest = f"sha256:{etag}" if blob.is_lfs else f"git-sha1:{etag}"
            stems.append(target.with_name(partial_file_prefix(target, digest, _SIZE)))
        elif way == "cache":
            blobs = folder / "cache" / "models--acme--planted" / "blobs"
            stems.append(blobs / f"{etag}.{etag[:16]}")
        else:
            root = folder / "local" / ".cache" / "huggingface" / "download"
            name = f"{chunk_digest(memoryview(path.encode()))}.{etag[:16]}"
            stems.append((root / path).with_name(name))
    return stems


@pytest.mark.parametrize("way", _WAYS)
def test_the_names_of_partial_files_are_those_that_are_planted(
    repo: Repo, tmp_path: Path, way: str
) -> None:
    """So that the tests with planted files plant where a download writes."""
    download, _ = _downloads(tmp_path)[way]
    _interrupted(download)

    left = {name for name in tree(tmp_path) if name.endswith(".0.incomplete")}
    stems = _partial_stems(tmp_path, way, repo)
    assert left
    assert left <= {f"{stem.relative_to(tmp_path)}.0.incomplete" for stem in stems}


@pytest.mark.parametrize("way", _WAYS)
def test_a_planted_folder_that_leads_outside_is_refused(
    repo: Repo, tmp_path: Path, way: str
) -> None:
    """Nothing is created where the link leads, and the error names the link."""
    download, folder = _downloads(tmp_path)[way]
    outside = tmp_path / "outside"
    outside.mkdir()
    root = folder / repo.find("main").id if way == "cache" else folder
    root.mkdir(parents=True)
    (root / "sub").symlink_to(outside)

    with pytest.raises((DestinationError, OSError), match="sub is a symbolic link to"):
        download()
    assert list(outside.iterdir()) == []


def test_a_planted_folder_of_metadata_is_refused(repo: Repo, tmp_path: Path) -> None:
    """Not even a lock file is created outside of the `local_dir`."""
    download, folder = _downloads(tmp_path)["local_dir"]
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "download" / "sub").symlink_to(outside)

    with pytest.raises((DestinationError, OSError), match="sub is a symbolic link to"):
        download()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("way", _WAYS)
def test_a_link_in_place_of_a_file_is_replaced(repo: Repo, tmp_path: Path, way: str) -> None:
    """As by rename(2): what it points to keeps its content."""
    download, folder = _downloads(tmp_path)[way]
    victim = tmp_path / "victim"
    root = folder / repo.find("main").id if way == "cache" else folder
    root.mkdir(parents=True)
    (root / "big.bin").symlink_to(victim)  # dangling: there is no file to keep

    download()

    assert not victim.exists()
    assert _files(folder, repo) == expected(repo)


_ERRNOS = [errno.ENOSYS, errno.ENOLCK, errno.EIO, errno.EINVAL, errno.ESTALE, errno.EACCES]


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("code", _ERRNOS, ids=errno.errorcode.get)
def test_without_flock_nothing_is_left(repo: Repo, tmp_path: Path, way: str, code: int) -> None:
    """Whatever flock returns: the files are there, and no partial file, lock or descriptor."""
    download, folder = _downloads(tmp_path)[way]
    before = descriptors()
    with no_flock(code):
        download()

    assert _files(folder, repo) == expected(repo)
    assert _leftovers(tmp_path) == []
    assert len(descriptors() - before) <= 2  # of the client's event loop


@pytest.mark.parametrize("way", _WAYS)
def test_without_flock_an_interrupted_download_is_resumed(
    hub: HubServer, repo: Repo, tmp_path: Path, way: str
) -> None:
    """Its partial files are found by their names, as with flock."""
    download, folder = _downloads(tmp_path)[way]
    with no_flock():
        _interrupted(download)
        partial_files = [name for name in tree(tmp_path) if name.endswith(".0.incomplete")]
        download()

    assert partial_files
    assert _files(folder, repo) == expected(repo)
    assert _leftovers(tmp_path) == []


_CHILD = """
import sys, hftransfer
from hftransfer.testing import no_flock
with no_flock():
    hftransfer.copy("hf://acme/planted", sys.argv[1])
    hftransfer.snapshot_download("acme/planted", cache_dir=sys.argv[2])
"""


def test_without_flock_two_processes_write_one_target(repo: Repo, tmp_path: Path) -> None:
    """Both succeed, with whole files and nothing left over."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    command = [sys.executable, "-c", _CHILD, str(out), str(cache)]
    children = [subprocess.Popen(command) for _ in range(2)]

    assert [child.wait(60) for child in children] == [0, 0]
    snapshot = cache / "models--acme--planted" / "snapshots" / repo.find("main").id
    assert contents(out) == contents(snapshot) == expected(repo)
    assert _leftovers(tmp_path) == []


@pytest.mark.parametrize("way", _WAYS)
def test_calls_per_small_file(repo: Repo, tmp_path: Path, way: str) -> None:
    """On a file server each metadata call is a round trip. huggingface_hub 2.4 makes 50 and 86.

    The bound is the number of calls that a small file needs, and those for the folders.
    """
    per_file = {
        "copy": 2,  # open, rename
        "cache": 7,  # lock: open, flock, lstat; blob: open, rename; link: symlink
        "local_dir": 7,  # lock: open, flock, lstat; file: open, rename; metadata: open
    }
    download, folder = _downloads(tmp_path)[way]
    with SlowFileSystem(tmp_path, delay=0) as slow:
        download()

    assert _files(folder, repo) == expected(repo)
    assert slow.calls.total() < per_file[way] * len(_SMALL) + 130


@pytest.mark.parametrize("way", _WAYS)
def test_on_a_slow_file_system_files_are_published_side_by_side(
    repo: Repo, tmp_path: Path, way: str
) -> None:
    """Once two calls were seen to sleep; here they take 5 ms each."""
    lock, asleep, most = threading.Lock(), 0, 0

    def sleep(seconds: float) -> None:
        nonlocal asleep, most
        with lock:
            asleep += 1
            most = max(most, asleep)
        time.sleep(seconds)
        with lock:
            asleep -= 1

    download, folder = _downloads(tmp_path)[way]
    with SlowFileSystem(tmp_path, sleep=sleep):
        download()

    assert most >= 8
    assert _files(folder, repo) == expected(repo)
    assert _leftovers(tmp_path) == ([] if way == "copy" else _locks(tmp_path))


def _locks(folder: Path) -> list[str]:
    """Return the files of huggingface_hub's locks, which stay where there is flock."""
    return [name for name in tree(folder) if name.endswith(".lock")]
