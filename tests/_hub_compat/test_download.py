"""`snapshot_download` and `hf_hub_download` against a Hub server with scripted faults.

What they leave on the disk is compared with huggingface_hub's in test_differential.py.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from hftransfer import hf_hub_download, snapshot_download
from hftransfer.testing import CorruptByte, Fault, HubServer, RandomFile, Repo, Stall, Status

_REPO = "acme/tiny"
_MODEL = RandomFile(3_000_000, seed=7)
_FILES: dict[str, bytes | Path | RandomFile] = {
    "config.json": b"{}",
    "sub/notes.txt": b"first",
    "model.safetensors": _MODEL,
}
_HUB = tuple(int(part) for part in huggingface_hub.__version__.split(".")[:2])
_EVENT_TIMEOUT = 30.0  # seconds; only a failure takes that long
_MIB = 1 << 20

EntryNotFoundOnHub = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)


@pytest.fixture
def repo(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository on the Hub that every download of the test talks to."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    return hub.create_repo(_REPO, files=_FILES)


@pytest.fixture
def unreachable() -> Iterator[str]:
    """An endpoint where nobody answers: its port is taken, but nothing listens on it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def contents(folder: str | Path) -> dict[str, bytes]:
    """The files of a folder by relative path, without huggingface_hub's bookkeeping."""
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".cache" not in path.relative_to(root).parts
    }


def expected(repo: Repo, revision: str = "main") -> dict[str, bytes]:
    """The files of a revision as they are on the Hub."""
    return {path: blob.read_bytes() for path, blob in repo.find(revision).files.items()}


def requested(hub: HubServer) -> list[tuple[str, str]]:
    """Host and method of every request since the last `clear_requests`."""
    return [(record.host, record.method) for record in hub.requests]


def bytes_from_cdn(hub: HubServer) -> int:
    assert hub.wait_idle()  # it counts bytes after they have gone
    return sum(record.bytes_sent for record in hub.requests if record.host == "cdn")


# --- what is downloaded


def test_a_branch_is_its_latest_commit(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """After a new commit `main` is downloaded anew, and the old commit can still be asked for."""
    old = repo.find("main").id
    new = repo.commit({"config.json": b"[2]"}, delete=["sub/notes.txt"])

    latest = snapshot_download(_REPO, cache_dir=tmp_path)
    pinned = snapshot_download(_REPO, cache_dir=tmp_path, revision=old)

    assert (Path(latest).name, Path(pinned).name) == (new, old)
    assert contents(latest) == expected(repo, new)
    assert contents(pinned) == expected(repo, old)


@pytest.mark.parametrize(
    ("patterns", "files"),
    [
        ({"allow_patterns": "*.txt"}, {"sub/notes.txt"}),
        ({"allow_patterns": ["sub/", "*.json"]}, {"sub/notes.txt", "config.json"}),
        ({"ignore_patterns": ["*.txt", "*.safetensors"]}, {"config.json"}),
        ({"allow_patterns": "*.json", "ignore_patterns": "conf*"}, set()),
    ],
)
def test_patterns_select_files(
    repo: Repo, tmp_path: Path, patterns: dict[str, Any], files: set[str]
) -> None:
    """``*`` matches across folders, and what is ignored wins over what is allowed."""
    folder = snapshot_download(_REPO, cache_dir=tmp_path, **patterns)

    assert set(contents(folder)) == files


def test_a_local_dir_that_exists_keeps_its_own_files(repo: Repo, tmp_path: Path) -> None:
    """Only the repository's files are replaced; links are not followed, others not touched."""
    (tmp_path / "mine.txt").write_bytes(b"mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own").write_bytes(b"own")
    (tmp_path / "config.json").write_bytes(b"older than the repository's")

    folder = snapshot_download(_REPO, local_dir=tmp_path)

    assert folder == os.path.realpath(tmp_path)
    assert contents(folder) == {**expected(repo), "mine.txt": b"mine", "sub/own": b"own"}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_a_local_dir_is_copied_from_the_cache(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """What is in the cache is not fetched again, and no temporary file stays."""
    snapshot_download(_REPO, cache_dir=tmp_path / "cache")
    hub.clear_requests()

    folder = snapshot_download(_REPO, cache_dir=tmp_path / "cache", local_dir=tmp_path / "dir")

    assert contents(folder) == expected(repo)
    assert [record for record in hub.requests if record.file is not None] == []
    assert list(Path(folder).rglob("*.incomplete")) == []


def test_a_damaged_cache_is_not_copied(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """A blob that does not have its digest is fetched from the Hub instead."""
    cached = snapshot_download(_REPO, cache_dir=tmp_path / "cache")
    blob = Path(cached, "model.safetensors").resolve()
    blob.write_bytes(bytes(blob.stat().st_size))

    folder = snapshot_download(_REPO, cache_dir=tmp_path / "cache", local_dir=tmp_path / "dir")

    assert contents(folder) == expected(repo)


def test_force_download_fetches_everything_again(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """Content that was changed behind our back is repaired by a forced download."""
    folder = snapshot_download(_REPO, cache_dir=tmp_path)
    blob = Path(folder, "model.safetensors").resolve()
    blob.write_bytes(b"damaged")
    hub.clear_requests()

    snapshot_download(_REPO, cache_dir=tmp_path, force_download=True)

    assert contents(folder) == expected(repo)
    assert {record.file for record in hub.requests} >= {f"{_REPO}/{path}" for path in _FILES}


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_the_umask(repo: Repo, tmp_path: Path, mask: int) -> None:
    """Others read a shared cache exactly as far as the umask lets them."""
    previous = os.umask(mask)
    try:
        folder = snapshot_download(_REPO, cache_dir=tmp_path)
    finally:
        os.umask(previous)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in Path(folder).rglob("*.*")}
    assert modes == {0o666 & ~mask}


def test_removed_arguments_are_accepted_with_a_warning(repo: Repo, tmp_path: Path) -> None:
    """Old calls keep working: ``resume_download`` has no effect but a warning."""
    with pytest.warns(UserWarning, match="resume_download"):
        folder = snapshot_download(_REPO, cache_dir=tmp_path, resume_download=True)  # type: ignore[call-arg]

    assert contents(folder) == expected(repo)


def test_progress_bars_know_the_numbers(repo: Repo, tmp_path: Path) -> None:
    """A ``tqdm_class`` gets one bar for all files and one for all bytes, both full at the end."""
    bars: list[Recording] = []

    class Recording:
        def __init__(self, *, desc: str, total: int, **kwargs: Any) -> None:
            self.desc, self.total, self.n = desc, total, 0
            bars.append(self)

        def update(self, n: int) -> None:
            self.n += n

    snapshot_download(_REPO, cache_dir=tmp_path, tqdm_class=Recording)

    size = sum(len(content) for content in expected(repo).values())
    assert {bar.desc: (bar.n, bar.total) for bar in bars} == {
        "Fetching 3 files": (3, 3),
        "Downloading bytes": (size, size),
    }


# --- requests


def test_a_cold_download_costs_two_requests_and_one_per_file(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """Revision, listing, one ``resolve`` per file: nothing is asked twice, no HEAD anywhere."""
    snapshot_download(_REPO, cache_dir=tmp_path)

    api = [record for record in hub.requests if "/api/models/" in record.path]
    resolve = [record for record in hub.requests if "/resolve/" in record.path]
    assert len(api) == 2
    assert sorted(str(record.file) for record in resolve) == sorted(f"{_REPO}/{p}" for p in _FILES)
    assert {record.method for record in hub.requests} == {"GET"}


def test_a_warm_branch_costs_one_request(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """Only the commit of the branch is asked for when the snapshot is complete."""
    first = snapshot_download(_REPO, cache_dir=tmp_path)
    hub.clear_requests()

    assert snapshot_download(_REPO, cache_dir=tmp_path) == first
    assert requested(hub) == [("hub", "GET")]


@pytest.mark.parametrize("local", [False, True])
def test_a_warm_commit_costs_no_request(
    hub: HubServer, repo: Repo, tmp_path: Path, local: bool
) -> None:
    """What is pinned cannot have changed, for a whole snapshot and for a file of it."""
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache", "revision": repo.find("main").id}
    if local:
        where["local_dir"] = tmp_path / "dir"
    first = snapshot_download(_REPO, **where)
    hub.clear_requests()

    assert snapshot_download(_REPO, **where) == first
    assert hf_hub_download(_REPO, "config.json", **where) == f"{first}/config.json"
    assert hub.requests == []


def test_the_token_goes_to_the_hub_alone(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """The content network sees neither the token nor headers of the caller's."""
    hub.add_token("hf_secret")

    snapshot_download(_REPO, cache_dir=tmp_path, token="hf_secret", headers={"X-Team": "blue"})

    for record in hub.requests:
        own = record.host == "hub"
        assert record.headers.get("Authorization") == ("Bearer hf_secret" if own else None)
        assert record.headers.get("X-Team") == ("blue" if own else None)


# --- refusals


@pytest.mark.parametrize(
    ("repo_id", "revision", "error"),
    [
        ("acme/none", None, errors.RepositoryNotFoundError),
        ("acme/private", None, errors.RepositoryNotFoundError),
        (_REPO, "none", errors.RevisionNotFoundError),
        ("not//a/name", None, errors.HFValidationError),
    ],
)
def test_refusals_are_huggingface_hubs_errors(
    hub: HubServer,
    repo: Repo,
    tmp_path: Path,
    repo_id: str,
    revision: str | None,
    error: type[Exception],
) -> None:
    """Whoever catches huggingface_hub's classes catches ours, for snapshots and for files."""
    hub.create_repo("acme/private", private=True, token="hf_secret", files=_FILES)

    with pytest.raises(error):
        snapshot_download(repo_id, revision=revision, cache_dir=tmp_path)
    with pytest.raises(error):
        hf_hub_download(repo_id, "config.json", revision=revision, cache_dir=tmp_path)


def test_a_gated_repository_needs_its_token(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """Without it the error is ``GatedRepoError``; with it everything is downloaded."""
    gated = hub.create_repo("acme/gated", gated=True, token="hf_secret", files=_FILES)

    with pytest.raises(errors.GatedRepoError):
        snapshot_download("acme/gated", cache_dir=tmp_path)

    assert contents(snapshot_download("acme/gated", cache_dir=tmp_path, token="hf_secret")) == (
        expected(gated)
    )


def test_a_missing_file_has_an_error_of_its_own(repo: Repo, tmp_path: Path) -> None:
    """The Hub's EntryNotFound is raised though a snapshot of the commit is in the cache."""
    snapshot_download(_REPO, cache_dir=tmp_path)

    with pytest.raises(EntryNotFoundOnHub):
        hf_hub_download(_REPO, "none.json", cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "", "C:\\x"])
def test_a_name_that_leaves_the_folder_is_refused(
    hub: HubServer, repo: Repo, tmp_path: Path, name: str
) -> None:
    """It is refused before anything is asked or written."""
    with pytest.raises(ValueError, match=r"."):
        hf_hub_download(_REPO, name, local_dir=tmp_path / "dir", cache_dir=tmp_path / "cache")

    assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


# --- without the Hub


@pytest.mark.parametrize("local", [False, True])
def test_local_files_only_asks_nobody(
    hub: HubServer, repo: Repo, tmp_path: Path, local: bool
) -> None:
    """What was downloaded is returned, for each revision its own commit."""
    repo.create_branch("old")
    repo.commit({"config.json": b"[2]"})
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    if local:
        where["local_dir"] = tmp_path / "dir"
    revisions = ["main"] if local else ["main", "old", repo.find("old").id]
    online = [snapshot_download(_REPO, revision=name, **where) for name in revisions]
    hub.clear_requests()

    offline = [
        snapshot_download(_REPO, revision=name, local_files_only=True, **where)
        for name in revisions
    ]

    assert offline == online
    assert hub.requests == []


@pytest.mark.parametrize("how", ["unreachable", "local_files_only", "offline"])
@pytest.mark.parametrize("download", ["snapshot", "file"])
def test_nothing_on_disk_and_no_hub(
    repo: Repo,
    tmp_path: Path,
    unreachable: str,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    download: str,
) -> None:
    """Whatever keeps us from the Hub: without a copy it is ``LocalEntryNotFoundError``."""
    monkeypatch.setenv("HFTRANSFER_ATTEMPTS", "1")
    kwargs: dict[str, Any] = {"cache_dir": tmp_path}
    if how == "unreachable":
        kwargs["endpoint"] = unreachable
    elif how == "local_files_only":
        kwargs["local_files_only"] = True
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(errors.LocalEntryNotFoundError):
        if download == "snapshot":
            snapshot_download(_REPO, **kwargs)
        else:
            hf_hub_download(_REPO, "config.json", **kwargs)


@pytest.mark.parametrize("local", [False, True])
def test_an_unreachable_hub_means_the_copy_on_disk(
    repo: Repo, tmp_path: Path, unreachable: str, local: bool
) -> None:
    """A snapshot and its files are returned from the disk, without a second try."""
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    if local:
        where["local_dir"] = tmp_path / "dir"
    online = snapshot_download(_REPO, **where)

    assert snapshot_download(_REPO, endpoint=unreachable, **where) == online
    assert hf_hub_download(_REPO, "config.json", endpoint=unreachable, **where) == (
        f"{online}/config.json"
    )


def test_a_failing_hub_is_asked_once_when_there_is_a_copy(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """A 503 does not keep those waiting who have the snapshot already."""
    online = snapshot_download(_REPO, cache_dir=tmp_path)
    fault = hub.add_fault(Fault(host="hub", path="/api/*", action=Status(503), times=None))

    assert snapshot_download(_REPO, cache_dir=tmp_path) == online
    assert fault.count == 1


def test_a_failing_hub_is_asked_again_when_there_is_no_whole_copy(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """One 503 does not turn one cached file into the snapshot, or into another file."""
    hf_hub_download(_REPO, "config.json", cache_dir=tmp_path)
    hub.add_fault(Fault(host="hub", path="/api/*", action=Status(503)))
    hub.add_fault(Fault(host="hub", method="HEAD", action=Status(503)))

    assert hf_hub_download(_REPO, "sub/notes.txt", cache_dir=tmp_path).endswith("notes.txt")
    assert contents(snapshot_download(_REPO, cache_dir=tmp_path)) == expected(repo)


def test_a_cached_private_repository_needs_no_token(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """What was downloaded with a token is found again without one."""
    hub.create_repo("acme/private", private=True, token="hf_secret", files=_FILES)
    online = snapshot_download("acme/private", cache_dir=tmp_path, token="hf_secret")

    assert snapshot_download("acme/private", cache_dir=tmp_path, token=False) == online
    assert hf_hub_download("acme/private", "config.json", cache_dir=tmp_path, token=False) == (
        f"{online}/config.json"
    )


@pytest.mark.skipif(_HUB < (1, 22), reason="IncompleteSnapshotError came with 1.22")
def test_an_incomplete_copy_is_not_passed_off_as_a_snapshot(repo: Repo, tmp_path: Path) -> None:
    """Without the Hub a snapshot with a file missing is an error, unless patterns leave it out."""
    online = snapshot_download(_REPO, cache_dir=tmp_path, ignore_patterns="*.txt")

    with pytest.raises(errors.IncompleteSnapshotError) as caught:
        snapshot_download(_REPO, cache_dir=tmp_path, local_files_only=True)

    assert caught.value.snapshot_path == online
    assert online == snapshot_download(
        _REPO, cache_dir=tmp_path, local_files_only=True, ignore_patterns="*.txt"
    )


@pytest.mark.parametrize("how", ["local_files_only", "offline"])
def test_a_download_cannot_be_forced_offline(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The contradiction is a ValueError, not a silent copy from the disk."""
    snapshot_download(_REPO, cache_dir=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    kwargs: dict[str, Any] = {"cache_dir": tmp_path, "force_download": True}
    kwargs["local_files_only"] = how == "local_files_only"

    with pytest.raises(ValueError, match="force"):
        snapshot_download(_REPO, **kwargs)
    with pytest.raises(ValueError, match="force"):
        hf_hub_download(_REPO, "config.json", **kwargs)


# --- damage and interruption


@pytest.mark.parametrize("local", [False, True])
def test_wrong_bytes_never_get_a_name(
    hub: HubServer, repo: Repo, tmp_path: Path, local: bool
) -> None:
    """One inverted byte, however often it is fetched: an OSError, and no file of that name."""
    hub.add_fault(Fault(host="cdn", action=CorruptByte(2_000_000), times=None))
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    if local:
        where["local_dir"] = tmp_path / "dir"

    with pytest.raises(OSError, match="Consistency check failed"):
        snapshot_download(_REPO, **where)

    oid = repo.find("main").files["model.safetensors"].etag
    assert [p for p in tmp_path.rglob("*") if p.name in ("model.safetensors", oid)] == []


_CHILD = """
import sys
from hftransfer import snapshot_download
snapshot_download(sys.argv[1], cache_dir=sys.argv[2])
"""


def downloading(hub: HubServer, repo_id: str, cache: Path) -> subprocess.Popen[bytes]:
    """Start a process that downloads a repository into `cache`."""
    environ = {**os.environ, **hub.environ()}
    return subprocess.Popen([sys.executable, "-c", _CHILD, repo_id, str(cache)], env=environ)


def test_a_killed_download_is_resumed(
    hub: HubServer, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 in mid-file only what had not arrived is fetched, and nothing is left over."""
    monkeypatch.setenv("HFTRANSFER_CHUNK_SIZE", str(_MIB))
    size = 16 * _MIB
    big = hub.create_repo("acme/big", files={"model.safetensors": RandomFile(size, seed=3)})
    blobs = tmp_path / "models--acme--big" / "blobs"
    stalled = hub.add_fault(Fault(host="cdn", ranged=True, after=4, action=Stall(), times=None))
    child = downloading(hub, "acme/big", tmp_path)
    try:
        assert stalled.wait(_EVENT_TIMEOUT)
        # Four chunks are answered; once they are in the journal nothing more can arrive.
        _wait_for(lambda: _journaled(blobs) == 4, child)
    finally:
        child.kill()
        child.wait()
    hub.clear_faults()
    hub.release()
    assert hub.wait_idle()
    hub.clear_requests()

    folder = snapshot_download("acme/big", cache_dir=tmp_path)

    assert contents(folder) == expected(big)
    assert bytes_from_cdn(hub) == size - 4 * _MIB
    assert list(blobs.glob("*.incomplete")) == []


def test_two_processes_download_each_blob_once(
    hub: HubServer, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits for the first one's lock, and finds the blob."""
    # A second connection would help the stalled one, and ask for some bytes again.
    monkeypatch.setenv("HFTRANSFER_CONNECTIONS", "1")
    fault = hub.add_fault(Fault(host="cdn", action=Stall(), times=1))
    children = [downloading(hub, _REPO, tmp_path)]
    try:
        assert fault.wait(_EVENT_TIMEOUT)
        children.append(downloading(hub, _REPO, tmp_path))
        _wait_for(lambda: sum("/revision/" in r.path for r in hub.requests) == 2, children[1])
        hub.release()
        assert [child.wait(_EVENT_TIMEOUT) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait()

    assert bytes_from_cdn(hub) == _MODEL.size
    assert contents(next(tmp_path.glob("models--*/snapshots/*"))) == expected(repo)


def _journaled(blobs: Path) -> int:
    """How many chunks are recorded beside the partial file, below the header line."""
    journals = blobs.glob("*.journal.incomplete")
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in journals)


def _wait_for(condition: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    """Wait until `condition` holds; the child's end, which comes, ends the wait with an error."""
    while not condition():
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.05)


_PINNED = """
import sys
from hftransfer import snapshot_download
print(snapshot_download(sys.argv[1], revision=sys.argv[2], cache_dir=sys.argv[3]))
light = ("aiohttp", "huggingface_hub.utils", "anyio._backends._asyncio", "hftransfer._http.client")
for name in light:
    assert name not in sys.modules, name
"""


def test_a_pinned_snapshot_costs_no_request_and_no_event_loop(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """What is complete in the cache is found with neither client nor loop, in any process."""
    first = snapshot_download(_REPO, revision=repo.head, cache_dir=tmp_path, endpoint=hub.endpoint)
    hub.clear_requests()

    printed = subprocess.run(
        [sys.executable, "-c", _PINNED, _REPO, repo.head, str(tmp_path)],
        env={**os.environ, **hub.environ()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert printed.strip() == first
    assert hub.requests == []


def test_a_pinned_snapshot_with_a_missing_file_is_completed(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """Only what is there is believed: one file gone from the snapshot is fetched."""
    download = partial(
        snapshot_download, _REPO, revision=repo.head, cache_dir=tmp_path, endpoint=hub.endpoint
    )
    folder = Path(download())
    gone = next(path for path in folder.iterdir() if path.name == "config.json")
    content = gone.read_bytes()
    gone.resolve().unlink()
    gone.unlink()

    assert download() == str(folder)

    assert gone.read_bytes() == content
