"""Xet announcements of the test Hub, and other servers in place of its hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

import hftransfer
from hftransfer.testing import HubServer, RandomFile, Repo

XET_HASH = "ab" * 32
CAS = "http://127.0.0.1:9/cas"


@pytest.fixture
def repo(hub: HubServer) -> Repo:
    model = RandomFile(70_000, seed=3)
    return hub.create_repo("org/model", files={"a.json": b"{}", "model.safetensors": model})


def announce(hub: HubServer, repo: Repo) -> None:
    blob = repo.find("main").files["model.safetensors"]
    hub.announce_xet(CAS, {blob.sha256: XET_HASH})


def get_json(url: str, token: str | None = None) -> tuple[dict[str, str], Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urlopen(Request(url, headers=headers), timeout=10) as response:  # noqa: S310 - loopback
        return dict(response.headers), json.load(response)


def test_without_an_announcement_there_is_no_xet(hub: HubServer, repo: Repo) -> None:
    """Neither tree nor resolve mention Xet, and `environ` disables it for clients."""
    _, tree = get_json(f"{hub.endpoint}/api/models/org/model/tree/main")
    url = hf_hub_url("org/model", "model.safetensors", endpoint=hub.endpoint)

    assert tree
    assert all("xetHash" not in entry for entry in tree)
    assert get_hf_file_metadata(url).xet_file_data is None
    assert hub.environ()["HF_HUB_DISABLE_XET"] == "1"


def test_listings_have_the_hash_of_announced_files(hub: HubServer, repo: Repo) -> None:
    """Tree and paths-info have `xetHash` for announced files only."""
    announce(hub, repo)

    api = HfApi(endpoint=hub.endpoint)
    listed = {item.path: item.xet_hash for item in api.list_repo_tree("org/model")}  # type: ignore[union-attr]
    (looked_up,) = api.get_paths_info("org/model", ["model.safetensors"])

    assert listed == {"a.json": None, "model.safetensors": XET_HASH}
    assert looked_up.xet_hash == XET_HASH  # type: ignore[union-attr]
    assert "HF_HUB_DISABLE_XET" not in hub.environ()


def test_resolve_has_hash_and_token_route(hub: HubServer, repo: Repo) -> None:
    """huggingface_hub finds the hash, and the route returns a token with its expiry."""
    announce(hub, repo)

    url = hf_hub_url("org/model", "model.safetensors", endpoint=hub.endpoint)
    found = get_hf_file_metadata(url, endpoint=hub.endpoint).xet_file_data
    assert found is not None
    headers, token = get_json(found.refresh_route)

    assert found.file_hash == XET_HASH
    assert token["casUrl"] == headers["X-Xet-Cas-Url"] == CAS
    assert token["accessToken"] == headers["X-Xet-Access-Token"]
    assert token["exp"] == int(headers["X-Xet-Token-Expiration"]) > time.time() + 60


@pytest.mark.parametrize("gated", [True, False])
def test_tokens_of_private_and_gated_repositories_need_access(
    hub: HubServer, *, gated: bool
) -> None:
    """Without read access the route returns 401."""
    repo = hub.create_repo("org/restricted", private=not gated, gated=gated, token="may-read")
    announce_all = {blob.sha256: XET_HASH for blob in repo.find("main").files.values()}
    hub.announce_xet(CAS, announce_all)
    route = f"{hub.endpoint}/api/models/org/restricted/xet-read-token/main"

    with pytest.raises(OSError, match="401"):
        get_json(route)
    assert get_json(route, "may-read")[1]["casUrl"] == CAS


def test_a_client_without_xet_downloads_from_the_cdn(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """The CDN serves an announced file, too."""
    announce(hub, repo)

    hftransfer.snapshot_download("org/model", local_dir=tmp_path, endpoint=hub.endpoint)

    expected = repo.find("main").files["model.safetensors"].read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == expected


def test_huggingface_hub_uses_the_announced_store(hub: HubServer, repo: Repo) -> None:
    """With hf_xet, huggingface_hub sends the token to the store and does not use the CDN."""
    pytest.importorskip("hf_xet")
    with recording_store() as (url, seen):
        blob = repo.find("main").files["model.safetensors"]
        hub.announce_xet(url, {blob.sha256: XET_HASH})
        code = "import huggingface_hub as h; h.hf_hub_download('org/model', 'model.safetensors')"
        environ = {**os.environ, **hub.environ()}
        environ.pop("HF_HUB_DISABLE_XET", None)
        subprocess.run([sys.executable, "-c", code], env=environ, check=False, capture_output=True)

    token = get_json(f"{hub.endpoint}/api/models/org/model/xet-read-token/main")[1]["accessToken"]
    assert any(
        XET_HASH in path and authorization == f"Bearer {token}" for path, authorization in seen
    )
    assert not any(record.host == "cdn" for record in hub.requests)


@contextmanager
def recording_store() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Run a store without files; yield its URL and the (path, authorization) of its requests."""
    seen: list[tuple[str, str | None]] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_error(404)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, seen


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


# --- other servers in place of the Hub's own hosts


def test_another_server_can_be_the_cdn(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    """A server with the blobs of `cdn_blobs` at their paths replaces the CDN."""
    for path, blob in hub.cdn_blobs(repo).items():
        link = tmp_path / "www" / path.lstrip("/")
        link.parent.mkdir(parents=True)
        link.symlink_to(blob.source)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as url:
        hub.cdn_url = url
        hftransfer.snapshot_download("org/model", local_dir=tmp_path / "to", endpoint=hub.endpoint)

    expected = repo.find("main").files["model.safetensors"].read_bytes()
    assert (tmp_path / "to" / "model.safetensors").read_bytes() == expected
    assert {record.host for record in hub.requests} == {"hub"}
    assert [blob.size for blob in hub.cdn_blobs(repo).values()] == [70_000]  # LFS files only


def test_responses_use_the_url_of_the_proxy(hub: HubServer, repo: Repo) -> None:
    """With `public_url`, links and `endpoint` use it; the server still listens at its own URL."""
    own = hub.endpoint
    hub.public_url = "http://127.0.0.1:9"
    announce(hub, repo)

    headers, _ = get_json(f"{own}/api/models/org/model/tree/main?limit=1")

    assert hub.endpoint == "http://127.0.0.1:9"
    assert hub.own_endpoint == own
    assert headers["Link"].startswith("<http://127.0.0.1:9/api/models/org/model/tree/main?")
