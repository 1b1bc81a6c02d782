"""`snapshot_download` and `hf_hub_download` against a Hub server: files, requests, errors.

scenarios/test_huggingface_hub.py compares what they write with what huggingface_hub writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors

from hftransfer import hf_hub_download, snapshot_download
from hftransfer.testing import CorruptByte, Fault, HubServer, Repo
from support.downloads import FILES, REPO, contents, expected

EntryNotFoundOnHub = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)


def requested(hub: HubServer) -> list[tuple[str, str]]:
    """Return host and method of every request since the last `clear_requests`."""
    return [(record.host, record.method) for record in hub.requests]


def test_a_branch_is_downloaded_at_its_latest_commit(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """After a new commit `main` is the new snapshot; the old commit can still be downloaded."""
    old = repo.find("main").id
    new = repo.commit({"config.json": b"[2]"}, delete=["sub/notes.txt"])

    latest = snapshot_download(REPO, cache_dir=tmp_path)
    pinned = snapshot_download(REPO, cache_dir=tmp_path, revision=old)

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
    """``*`` also matches ``/``; `ignore_patterns` have precedence over `allow_patterns`."""
    folder = snapshot_download(REPO, cache_dir=tmp_path, **patterns)

    assert set(contents(folder)) == files


def test_force_download_replaces_every_file(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """A forced download fetches all files, so a damaged blob is repaired."""
    folder = snapshot_download(REPO, cache_dir=tmp_path)
    blob = Path(folder, "model.safetensors").resolve()
    blob.write_bytes(b"damaged")
    hub.clear_requests()

    snapshot_download(REPO, cache_dir=tmp_path, force_download=True)

    assert contents(folder) == expected(repo)
    assert {record.file for record in hub.requests} >= {f"{REPO}/{path}" for path in FILES}


def test_removed_arguments_are_accepted_with_a_warning(repo: Repo, tmp_path: Path) -> None:
    """``resume_download``, which huggingface_hub has removed, gives a warning and no effect."""
    with pytest.warns(UserWarning, match="resume_download"):
        folder = snapshot_download(REPO, cache_dir=tmp_path, resume_download=True)  # type: ignore[call-arg]

    assert contents(folder) == expected(repo)


# --- number of requests


def test_a_first_download_needs_two_requests_and_one_per_file(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """Revision, listing and one ``resolve`` per file: no request is made twice, and no HEAD."""
    snapshot_download(REPO, cache_dir=tmp_path)

    api = [record for record in hub.requests if "/api/models/" in record.path]
    resolve = [record for record in hub.requests if "/resolve/" in record.path]
    assert len(api) == 2
    assert sorted(str(record.file) for record in resolve) == sorted(f"{REPO}/{p}" for p in FILES)
    assert {record.method for record in hub.requests} == {"GET"}


def test_a_cached_branch_needs_one_request(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """If the snapshot is complete, only the commit of the branch is requested."""
    first = snapshot_download(REPO, cache_dir=tmp_path)
    hub.clear_requests()

    assert snapshot_download(REPO, cache_dir=tmp_path) == first
    assert requested(hub) == [("hub", "GET")]


def test_the_token_is_sent_only_to_the_hub(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """The CDN gets neither the token nor the headers that the caller passes."""
    hub.add_token("hf_secret")

    snapshot_download(REPO, cache_dir=tmp_path, token="hf_secret", headers={"X-Team": "blue"})

    sent = {
        (record.host, record.headers.get("Authorization"), record.headers.get("X-Team"))
        for record in hub.requests
    }
    assert sent == {("hub", "Bearer hf_secret", "blue"), ("cdn", None, None)}


# --- errors


@pytest.mark.parametrize(
    ("repo_id", "revision", "error"),
    [
        ("acme/none", None, errors.RepositoryNotFoundError),
        ("acme/private", None, errors.RepositoryNotFoundError),
        (REPO, "none", errors.RevisionNotFoundError),
        ("not//a/name", None, errors.HFValidationError),
    ],
)
def test_errors_are_huggingface_hubs_classes(
    hub: HubServer,
    repo: Repo,
    tmp_path: Path,
    repo_id: str,
    revision: str | None,
    error: type[Exception],
) -> None:
    """For snapshots and for files, each error has the class that huggingface_hub raises."""
    hub.create_repo("acme/private", private=True, token="hf_secret", files=FILES)

    with pytest.raises(error):
        snapshot_download(repo_id, revision=revision, cache_dir=tmp_path)
    with pytest.raises(error):
        hf_hub_download(repo_id, "config.json", revision=revision, cache_dir=tmp_path)


def test_a_gated_repository_needs_its_token(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """Without a token the error is ``GatedRepoError``; with it all files are downloaded."""
    gated = hub.create_repo("acme/gated", gated=True, token="hf_secret", files=FILES)

    with pytest.raises(errors.GatedRepoError):
        snapshot_download("acme/gated", cache_dir=tmp_path)

    assert contents(snapshot_download("acme/gated", cache_dir=tmp_path, token="hf_secret")) == (
        expected(gated)
    )


def test_a_missing_file_is_an_error_with_a_cached_snapshot(repo: Repo, tmp_path: Path) -> None:
    """EntryNotFound is conclusive: the cached snapshot of the commit does not replace it."""
    snapshot_download(REPO, cache_dir=tmp_path)

    with pytest.raises(EntryNotFoundOnHub):
        hf_hub_download(REPO, "none.json", cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "", "C:\\x"])
def test_a_path_outside_the_repository_is_refused(
    hub: HubServer, repo: Repo, tmp_path: Path, name: str
) -> None:
    """It is refused before a request is made or a file is written."""
    with pytest.raises(ValueError, match=r"."):
        hf_hub_download(REPO, name, local_dir=tmp_path / "dir", cache_dir=tmp_path / "cache")

    assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("local", [False, True])
def test_damaged_content_is_never_published(
    hub: HubServer, repo: Repo, tmp_path: Path, local: bool
) -> None:
    """If every response has one inverted byte, OSError is raised and no file is published."""
    hub.add_fault(Fault(host="cdn", action=CorruptByte(2_000_000), times=None))
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    if local:
        where["local_dir"] = tmp_path / "dir"

    with pytest.raises(OSError, match="Consistency check failed"):
        snapshot_download(REPO, **where)

    oid = repo.find("main").files["model.safetensors"].etag
    assert [p for p in tmp_path.rglob("*") if p.name in ("model.safetensors", oid)] == []
