"""Downloads without the Hub: unreachable, failing, `local_files_only` and offline mode."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, errors

from hftransfer import hf_hub_download, snapshot_download
from hftransfer.testing import Fault, HubServer, Repo, Status
from support.downloads import FILES, HUB_VERSION, REPO, contents, expected


@pytest.fixture
def unreachable() -> Iterator[str]:
    """A URL that refuses connections: the port is bound, but no socket listens on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("local", [False, True])
def test_local_files_only_makes_no_request(
    hub: HubServer, repo: Repo, tmp_path: Path, local: bool
) -> None:
    """The downloaded snapshot is returned, for each revision that of its commit."""
    repo.create_branch("old")
    repo.commit({"config.json": b"[2]"})
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    if local:
        where["local_dir"] = tmp_path / "dir"
    revisions = ["main"] if local else ["main", "old", repo.find("old").id]
    online = [snapshot_download(REPO, revision=name, **where) for name in revisions]
    hub.clear_requests()

    offline = [
        snapshot_download(REPO, revision=name, local_files_only=True, **where) for name in revisions
    ]

    assert offline == online
    assert hub.requests == []


@pytest.mark.parametrize("how", ["unreachable", "local_files_only", "offline"])
@pytest.mark.parametrize("download", ["snapshot", "file"])
def test_without_hub_and_copy_the_error_is_local_entry_not_found(
    repo: Repo,
    tmp_path: Path,
    unreachable: str,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    download: str,
) -> None:
    """The reason why the Hub is not asked makes no difference to the class of the error."""
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
            snapshot_download(REPO, **kwargs)
        else:
            hf_hub_download(REPO, "config.json", **kwargs)


@pytest.mark.parametrize("local", [False, True])
def test_an_unreachable_hub_leads_to_the_copy_on_disk(
    repo: Repo, tmp_path: Path, unreachable: str, local: bool
) -> None:
    """A snapshot and its files are returned from the disk, without retrying the request."""
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    if local:
        where["local_dir"] = tmp_path / "dir"
    online = snapshot_download(REPO, **where)

    assert snapshot_download(REPO, endpoint=unreachable, **where) == online
    assert hf_hub_download(REPO, "config.json", endpoint=unreachable, **where) == (
        f"{online}/config.json"
    )


def test_a_failing_hub_is_asked_once_if_there_is_a_copy(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """After one 503 the cached snapshot is returned; the request is not retried."""
    online = snapshot_download(REPO, cache_dir=tmp_path)
    fault = hub.add_fault(Fault(host="hub", path="/api/*", action=Status(503), times=None))

    assert snapshot_download(REPO, cache_dir=tmp_path) == online
    assert fault.count == 1


def test_a_failing_hub_is_asked_again_without_a_complete_copy(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """One cached file is neither the snapshot nor another file: the request is retried."""
    hf_hub_download(REPO, "config.json", cache_dir=tmp_path)
    hub.add_fault(Fault(host="hub", path="/api/*", action=Status(503)))
    hub.add_fault(Fault(host="hub", method="HEAD", action=Status(503)))

    assert hf_hub_download(REPO, "sub/notes.txt", cache_dir=tmp_path).endswith("notes.txt")
    assert contents(snapshot_download(REPO, cache_dir=tmp_path)) == expected(repo)


def test_a_cached_private_repository_needs_no_token(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """A snapshot that was downloaded with a token is returned without one."""
    hub.create_repo("acme/private", private=True, token="hf_secret", files=FILES)
    online = snapshot_download("acme/private", cache_dir=tmp_path, token="hf_secret")

    assert snapshot_download("acme/private", cache_dir=tmp_path, token=False) == online
    assert hf_hub_download("acme/private", "config.json", cache_dir=tmp_path, token=False) == (
        f"{online}/config.json"
    )


@pytest.mark.skipif(HUB_VERSION < (1, 22), reason="IncompleteSnapshotError came with 1.22")
def test_an_incomplete_copy_is_an_error(repo: Repo, tmp_path: Path) -> None:
    """Offline, a snapshot with a missing file is an error unless the patterns exclude it."""
    online = snapshot_download(REPO, cache_dir=tmp_path, ignore_patterns="*.txt")

    with pytest.raises(errors.IncompleteSnapshotError) as caught:
        snapshot_download(REPO, cache_dir=tmp_path, local_files_only=True)

    assert caught.value.snapshot_path == online
    assert online == snapshot_download(
        REPO, cache_dir=tmp_path, local_files_only=True, ignore_patterns="*.txt"
    )


@pytest.mark.parametrize("how", ["local_files_only", "offline"])
def test_a_download_cannot_be_forced_offline(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """`force_download` without the Hub is a ValueError; the copy on disk is not returned."""
    snapshot_download(REPO, cache_dir=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    kwargs: dict[str, Any] = {"cache_dir": tmp_path, "force_download": True}
    kwargs["local_files_only"] = how == "local_files_only"

    with pytest.raises(ValueError, match="force"):
        snapshot_download(REPO, **kwargs)
    with pytest.raises(ValueError, match="force"):
        hf_hub_download(REPO, "config.json", **kwargs)
