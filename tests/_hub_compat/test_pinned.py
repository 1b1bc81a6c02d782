"""Downloads of a pinned commit that is on the disk."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hftransfer import hf_hub_download, snapshot_download
from hftransfer.testing import HubServer, Repo
from support.downloads import REPO


@pytest.mark.parametrize("local", [False, True])
def test_a_pinned_commit_on_disk_needs_no_request(
    hub: HubServer, repo: Repo, tmp_path: Path, local: bool
) -> None:
    """A commit never changes: neither its snapshot nor its files are requested again."""
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache", "revision": repo.find("main").id}
    if local:
        where["local_dir"] = tmp_path / "dir"
    first = snapshot_download(REPO, **where)
    hub.clear_requests()

    assert snapshot_download(REPO, **where) == first
    assert hf_hub_download(REPO, "config.json", **where) == f"{first}/config.json"
    assert hub.requests == []


_HEAVY = (
    "aiohttp",
    "anyio._backends._asyncio",
    "hftransfer._http.client",
    "huggingface_hub.utils",
)
_PINNED = """
import sys
from hftransfer import snapshot_download
print(snapshot_download(sys.argv[1], revision=sys.argv[2], cache_dir=sys.argv[3]))
print(*sys.modules)
"""


def test_a_pinned_snapshot_loads_neither_client_nor_event_loop(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """A complete snapshot is found without importing an HTTP client or an event loop."""
    first = snapshot_download(REPO, revision=repo.head, cache_dir=tmp_path, endpoint=hub.endpoint)
    hub.clear_requests()

    printed = subprocess.run(
        [sys.executable, "-c", _PINNED, REPO, repo.head, str(tmp_path)],
        env={**os.environ, **hub.environ()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    found, loaded = printed.splitlines()
    assert found == first
    assert [name for name in _HEAVY if name in loaded.split()] == []
    assert all(importlib.util.find_spec(name) for name in _HEAVY)  # the names are those of today
    assert hub.requests == []


def test_a_pinned_snapshot_with_a_missing_file_is_completed(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """The files are looked for on the disk: a deleted one is downloaded again."""
    download = partial(
        snapshot_download, REPO, revision=repo.head, cache_dir=tmp_path, endpoint=hub.endpoint
    )
    folder = Path(download())
    gone = next(path for path in folder.iterdir() if path.name == "config.json")
    content = gone.read_bytes()
    gone.resolve().unlink()
    gone.unlink()

    assert download() == str(folder)

    assert gone.read_bytes() == content
