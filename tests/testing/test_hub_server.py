"""The test Hub, used by huggingface_hub and by a plain HTTP client."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hftransfer.testing import HubServer, RandomFile, Repo

if TYPE_CHECKING:
    import ssl

MIB = 1 << 20
AWFUL = "subfolder/to?/awful?filename%you:should,never.give"
FILES: dict[str, bytes | Path | RandomFile] = {
    "config.json": b"{}",
    "empty.txt": b"",
    "weights/model.safetensors": RandomFile(3 * MIB + 17, seed=1),
    "weights/deep/er/vocab.txt": b"a\nb\n",
    "größe/日本.txt": b"unicode",
    AWFUL: b"awful",
}


class Result(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


def fetch(url: str, method: str = "GET", **headers: str) -> Result:
    """Make one request on a new connection, without following redirects."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        target = url.removeprefix(f"{parts.scheme}://{parts.netloc}")
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Result(response.status, names, response.read())
    finally:
        connection.close()


@pytest.fixture
def tiny(hub: HubServer) -> Repo:
    """A small repository with every kind of file."""
    return hub.create_repo("acme/tiny", files=FILES)


def expected_tree(repo: Repo, revision: str = "main") -> dict[str, bytes]:
    return {path: blob.read_bytes() for path, blob in repo.find(revision).files.items()}


def tree_on_disk(root: str | Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in Path(root).rglob("*")
        if path.is_file() and ".cache" not in path.relative_to(root).parts
    }


def download(
    hub: HubServer,
    repo_id: str,
    to: Path,
    *,
    repo_type: str = "model",
    revision: str | None = None,
    token: str | bool = False,
) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            repo_id,
            repo_type=repo_type,
            revision=revision,
            token=token,
            endpoint=hub.endpoint,
            cache_dir=to,
        )
    )


# --- huggingface_hub, unmodified


@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_snapshot_download_gets_every_file(tmp_path: Path, page_size: int) -> None:
    """huggingface_hub downloads the committed files, for any page size."""
    with HubServer(page_size=page_size) as hub:
        repo = hub.create_repo("acme/tiny", files=FILES)
        snapshot = download(hub, "acme/tiny", tmp_path)
        listings = [record for record in hub.requests if "/tree/" in record.path]

        assert tree_on_disk(snapshot) == expected_tree(repo)
        assert snapshot.name == repo.head
        entries = len(repo.find("main").tree)
        assert len(listings) == -(-entries // page_size)


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
@pytest.mark.parametrize("repo_id", ["acme/tiny", "bert-base-uncased"])
def test_repository_types_and_ids_without_namespace(
    hub: HubServer, tmp_path: Path, repo_type: str, repo_id: str
) -> None:
    """All three types of repository can be downloaded, with and without a namespace."""
    repo = hub.create_repo(repo_id, repo_type=repo_type, files=FILES)  # type: ignore[arg-type]

    snapshot = download(hub, repo_id, tmp_path, repo_type=repo_type)

    assert tree_on_disk(snapshot) == expected_tree(repo)


def test_the_same_id_in_two_types_is_two_repositories(hub: HubServer, tmp_path: Path) -> None:
    """A dataset and a model of the same name have different files."""
    hub.create_repo("acme/x", files={"a": b"model"})
    hub.create_repo("acme/x", repo_type="dataset", files={"a": b"dataset"})

    found = download(hub, "acme/x", tmp_path, repo_type="dataset")

    assert tree_on_disk(found) == {"a": b"dataset"}


def test_a_child_process_needs_only_the_environment(tiny: Repo, hub: HubServer) -> None:
    """A process started with `environ()` needs no other setting."""
    code = "import huggingface_hub as h; print(h.snapshot_download('acme/tiny'))"
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **hub.environ()},
        capture_output=True,
        text=True,
        check=True,
    )

    assert tree_on_disk(child.stdout.strip()) == expected_tree(tiny)


def test_revisions(tiny: Repo, hub: HubServer, tmp_path: Path) -> None:
    """Branches, tags, pull requests and commits can be downloaded and are listed as refs."""
    first = tiny.head
    tiny.create_tag("v1")
    tiny.create_branch("refs/pr/1")
    second = tiny.commit({"config.json": b"2"}, delete=["empty.txt"])
    tiny.commit({"config.json": b"pr"}, revision="refs/pr/1")

    assert second == tiny.head != first
    assert download(hub, "acme/tiny", tmp_path, revision="v1").name == first
    for revision in ("main", "refs/pr/1", first, second):
        found = tree_on_disk(download(hub, "acme/tiny", tmp_path, revision=revision))
        assert found == expected_tree(tiny, revision)
    assert "empty.txt" not in expected_tree(tiny)
    refs = huggingface_hub.HfApi(hub.endpoint).list_repo_refs(
        "acme/tiny", include_pull_requests=True
    )
    assert [ref.name for ref in refs.branches] == ["main"]
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", first)]
    assert [ref.name for ref in refs.pull_requests or []] == ["refs/pr/1"]


def test_commit_ids_are_reproducible() -> None:
    """The same history has the same commit id on every server."""
    heads = set()
    for _ in range(2):
        with HubServer() as hub:
            heads.add(hub.create_repo("a/b", files={"x": b"1"}).commit({"x": b"2"}))

    assert len(heads) == 1


def test_a_repository_from_a_folder(hub: HubServer, tmp_path: Path) -> None:
    """The files of a folder are the first commit and are not copied."""
    source = tmp_path / "model"
    (source / "sub").mkdir(parents=True)
    (source / "a.txt").write_bytes(b"a")
    (source / "sub" / "b.bin").write_bytes(b"b" * 1000)
    repo = hub.create_repo("acme/folder", folder=source)

    assert tree_on_disk(download(hub, "acme/folder", tmp_path / "cache")) == tree_on_disk(source)
    assert repo.blob("sub/b.bin").source == source / "sub" / "b.bin"


def test_metadata_has_sizes_and_digests(tiny: Repo, hub: HubServer) -> None:
    """Repository info, tree and paths-info have the committed sizes and digests."""
    api = huggingface_hub.HfApi(hub.endpoint, token=False)
    weights = tiny.blob("weights/model.safetensors")
    info = api.model_info("acme/tiny", files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    lfs = siblings["weights/model.safetensors"].lfs
    top = {entry.path for entry in api.list_repo_tree("acme/tiny")}
    (found,) = api.get_paths_info("acme/tiny", ["weights/model.safetensors"], expand=True)

    assert info.sha == tiny.head
    assert set(siblings) == set(FILES)
    assert lfs is not None
    assert (lfs.size, lfs.sha256) == (weights.size, weights.sha256)
    assert top == {"config.json", "empty.txt", "weights", "größe", "subfolder"}
    assert isinstance(found, huggingface_hub.hf_api.RepoFile)
    assert (found.size, found.blob_id) == (weights.size, weights.oid)
    assert found.last_commit is not None
    assert found.last_commit.oid == tiny.head


# --- permissions


def test_missing_repository_revision_and_file(tiny: Repo, hub: HubServer, tmp_path: Path) -> None:
    """Each raises its own exception in huggingface_hub."""
    with pytest.raises(RepositoryNotFoundError) as missing:
        download(hub, "acme/none", tmp_path)
    with pytest.raises(RevisionNotFoundError):
        download(hub, "acme/tiny", tmp_path, revision="none")
    with pytest.raises(EntryNotFoundError):
        huggingface_hub.hf_hub_download(
            "acme/tiny", "none.txt", endpoint=hub.endpoint, cache_dir=tmp_path
        )

    assert missing.value.response.status_code == 401
    assert fetch(f"{hub.endpoint}/api/models/acme/tiny/tree/main/none").status == 404


def test_private(hub: HubServer, tmp_path: Path) -> None:
    """Without a token that may read it, a private repository does not exist."""
    hub.create_repo("acme/secret", private=True, token="hf_right", files={"a": b"1"})
    hub.add_token("hf_other", repos=["acme/elsewhere"])
    hub.add_token("hf_all")

    for token, status in ((False, 401), ("hf_other", 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            download(hub, "acme/secret", tmp_path, token=token)
        assert error.value.response.status_code == status
    for good in ("hf_right", "hf_all"):
        found = download(hub, "acme/secret", tmp_path / good, token=good)
        assert tree_on_disk(found) == {"a": b"1"}


def test_gated(hub: HubServer, tmp_path: Path) -> None:
    """Downloading a gated repository needs a token that may read it."""
    hub.create_repo("acme/gated", gated=True, token="hf_right", files={"a": b"1"})
    hub.add_token("hf_other", repos=[])

    for token, status in ((False, 401), ("hf_other", 403)):
        with pytest.raises(GatedRepoError) as error:
            download(hub, "acme/gated", tmp_path, token=token)
        assert error.value.response.status_code == status
    assert tree_on_disk(download(hub, "acme/gated", tmp_path, token="hf_right")) == {"a": b"1"}


def test_disabled_and_invalid_token(tiny: Repo, hub: HubServer, tmp_path: Path) -> None:
    """Both get the status and message of the real Hub."""
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header"):
        download(hub, "acme/tiny", tmp_path, token="hf_unknown")

    tiny.disabled = True
    with pytest.raises(DisabledRepoError):
        huggingface_hub.HfApi(hub.endpoint, token=False).model_info("acme/tiny")


def test_renamed(tiny: Repo, hub: HubServer, tmp_path: Path) -> None:
    """All earlier names redirect; they do not reveal a private repository."""
    hub.rename_repo("acme/tiny", "acme/small")
    hub.rename_repo("acme/small", "bare")
    result = fetch(f"{hub.endpoint}/acme/tiny/resolve/main/config.json?x=1")

    assert (result.status, result.headers["location"]) == (
        307,
        "/bare/resolve/main/config.json?x=1",
    )
    for name in ("acme/tiny", "acme/small", "bare"):
        found = download(hub, name, tmp_path / name)
        assert tree_on_disk(found) == expected_tree(tiny)
    tiny.private = True
    with pytest.raises(RepositoryNotFoundError):
        download(hub, "acme/tiny", tmp_path / "private")


# --- HTTP responses


def test_every_hub_response_has_rate_limit_headers(tiny: Repo, hub: HubServer) -> None:
    """API responses, redirects and errors of the Hub host name their quota."""
    for path, bucket in (
        ("/api/models/acme/tiny", "api"),
        ("/api/models/acme/none", "api"),
        ("/acme/tiny/resolve/main/config.json", "resolvers"),
    ):
        headers = fetch(hub.endpoint + path).headers
        assert headers["ratelimit"].startswith(f'"{bucket}";r=')
        assert f'"fixed window";"{bucket}";q=' in headers["ratelimit-policy"]


def test_a_regular_file_is_redirected_to_the_resolve_cache(tiny: Repo, hub: HubServer) -> None:
    """307 to a relative URL, then 200 with the git blob id as ETag, and ranges."""
    blob = tiny.blob("weights/deep/er/vocab.txt")
    first = fetch(f"{hub.endpoint}/acme/tiny/resolve/main/weights/deep/er/vocab.txt")
    location = first.headers["location"]
    second = fetch(hub.endpoint + location)
    ranged = fetch(hub.endpoint + location, Range="bytes=1-2")
    head = fetch(hub.endpoint + location, "HEAD")

    assert (first.status, location.split("/")[1:3]) == (307, ["api", "resolve-cache"])
    assert (second.status, second.body) == (200, b"a\nb\n")
    assert second.headers["etag"] == f'"{blob.oid}"'
    assert second.headers["accept-ranges"] == "bytes"
    assert (ranged.status, ranged.body) == (206, b"\nb")
    assert ranged.headers["content-range"] == "bytes 1-2/4"
    assert (head.status, head.headers["content-length"], head.body) == (200, "4", b"")
    for result in (first, second, ranged, head):
        assert result.headers["x-repo-commit"] == tiny.head


def resolve(hub: HubServer, path: str = "weights/model.safetensors", **headers: str) -> Result:
    return fetch(f"{hub.endpoint}/acme/tiny/resolve/main/{path}", **headers)


def test_an_lfs_file_is_redirected_to_the_cdn(tiny: Repo, hub: HubServer) -> None:
    """302 to a signed URL on another host; only the Hub's response has the digest."""
    blob = tiny.blob("weights/model.safetensors")
    content = blob.read_bytes()
    result = resolve(hub)
    location = result.headers["location"]
    whole, ranged = fetch(location), fetch(location, Range=f"bytes={MIB}-{MIB + 9}")

    assert result.status == 302
    assert location.startswith(f"{hub.cdn_endpoint}/")
    assert urlsplit(location).hostname != urlsplit(hub.endpoint).hostname
    assert "Expires=" in location
    assert result.headers["x-linked-etag"] == f'"{blob.sha256}"'
    assert result.headers["x-linked-size"] == str(blob.size)
    assert result.headers["x-repo-commit"] == tiny.head
    assert result.headers["content-length"] != str(blob.size)
    assert (whole.status, whole.body) == (200, content)
    assert (ranged.status, ranged.body) == (206, content[MIB : MIB + 10])
    assert ranged.headers["content-range"] == f"bytes {MIB}-{MIB + 9}/{blob.size}"
    assert len(whole.headers["etag"].strip('"')) == 64
    assert whole.headers["etag"] != f'"{blob.sha256}"'
    assert fetch(location, Range=f"bytes={blob.size}-").status == 416
    assert fetch(location, **{"If-Match": '"other"'}).status == 412


def test_the_cdn_rejects_credentials(tiny: Repo, hub: HubServer) -> None:
    """A token sent to the CDN gives 400, so that a client that leaks it fails its tests."""
    result = fetch(resolve(hub).headers["location"], Authorization="Bearer hf_x")

    assert result.status == 400
    assert b"auth mechanism" in result.body


def test_signed_urls_expire(tiny: Repo, hub: HubServer) -> None:
    """An expired URL is rejected; a new one is served."""
    hub.url_lifetime = 0
    late = fetch(resolve(hub).headers["location"])
    hub.url_lifetime = 60

    assert (late.status, b"expired" in late.body) == (403, True)
    assert fetch(resolve(hub).headers["location"]).status == 200


def test_modified_signed_urls_are_rejected(tiny: Repo, hub: HubServer) -> None:
    """A URL whose query was re-encoded gives 403."""
    location = resolve(hub).headers["location"]

    assert "%2F" in location
    assert fetch(location.replace("%2F", "/")).status == 403


def test_a_url_resolved_with_a_range_serves_that_range_only(tiny: Repo, hub: HubServer) -> None:
    """A Range header on resolve binds the signed URL to that range."""
    location = resolve(hub, Range="bytes=0-9").headers["location"]
    other = fetch(location, Range="bytes=10-19")

    assert fetch(location, Range="bytes=0-9").status == 206
    assert (other.status, b"Auth failed: invalid range" in other.body) == (403, True)
    assert fetch(location).status == 403


def test_direct_repositories_respond_without_a_redirect(hub: HubServer, tmp_path: Path) -> None:
    """With `direct` the Hub host sends the file itself."""
    repo = hub.create_repo("acme/tiny", direct=True, files=FILES)
    result = resolve(hub, Range="bytes=0-3")
    blob = repo.blob("weights/model.safetensors")

    assert (result.status, result.body) == (206, blob.read_bytes()[:4])
    assert result.headers["etag"] == f'"{blob.sha256}"'
    assert tree_on_disk(download(hub, "acme/tiny", tmp_path)) == expected_tree(repo)
    assert {record.host for record in hub.requests} == {"hub"}


def test_tree_pages_link_to_the_next(hub: HubServer) -> None:
    """Pages have `limit` entries in path order; all but the last have an absolute link."""
    hub.create_repo("a/b", files={"d/x": b"", "a": b"", "z": b""})
    url, paths, pages = f"{hub.endpoint}/api/models/a/b/tree/main?recursive=true&limit=2", [], 0
    while url:
        result = fetch(url)
        rows = result.json()
        assert isinstance(rows, list)
        paths += [(row["path"], row["type"]) for row in rows]
        pages += 1
        link = result.headers.get("link", "")
        url = link.partition("<")[2].partition(">")[0]

    assert paths == [("a", "file"), ("d", "directory"), ("d/x", "file"), ("z", "file")]
    assert pages == 2
    assert fetch(f"{hub.endpoint}/api/models/a/b/tree/main?limit=x").status == 400


def test_a_malicious_path_is_listed_unchanged(hub: HubServer) -> None:
    """A repository may contain paths with `..`, to test clients."""
    hub.create_repo("a/evil", files={"../../evil": b"", "ok": b""})
    rows = fetch(f"{hub.endpoint}/api/models/a/evil/tree/main?recursive=true").json()

    assert isinstance(rows, list)
    assert "../../evil" in [row["path"] for row in rows]


# --- the server itself


def test_requests_are_recorded(tiny: Repo, hub: HubServer) -> None:
    """A record has host, status, range, bytes, file and connection of a request."""
    location = resolve(hub, Authorization="").headers["location"]
    fetch(location, Range="bytes=5-9")
    assert hub.wait_idle()
    first, second = hub.requests
    hub.clear_requests()

    assert (first.host, first.method, first.status) == ("hub", "GET", 302)
    assert first.path == "/acme/tiny/resolve/main/weights/model.safetensors"
    assert first.headers["authorization"] == ""
    assert (second.host, second.status, second.range) == ("cdn", 206, "bytes=5-9")
    assert second.bytes_sent == 5
    assert second.file == "acme/tiny/weights/model.safetensors"
    assert first.connection != second.connection
    assert hub.requests == []


def test_bytes_sent_counts_only_what_was_sent(hub: HubServer) -> None:
    """If a client stops reading, at most the socket buffers are counted in addition."""
    size = 64 * MIB
    hub.create_repo("acme/tiny", files={"weights/model.safetensors": RandomFile(size)})
    parts = urlsplit(resolve(hub).headers["location"])
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request("GET", f"{parts.path}?{parts.query}")
    response = connection.getresponse()
    taken = response.read(MIB)
    response.close()
    connection.close()

    assert hub.wait_idle()
    sent = hub.requests[-1].bytes_sent
    assert len(taken) <= sent < size // 2


def test_a_rate_limit_can_be_removed_during_a_response(tiny: Repo, hub: HubServer) -> None:
    """A throttled body is sent at full speed after the limit is removed."""
    hub.cdn_bytes_per_second = 1000.0  # the whole body would take most of an hour
    content = tiny.blob("weights/model.safetensors").read_bytes()
    parts = urlsplit(resolve(hub).headers["location"])
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request("GET", f"{parts.path}?{parts.query}")
    response = connection.getresponse()
    start = response.read(100)
    assert hub.requests[-1].bytes_sent < len(content) // 2
    hub.cdn_bytes_per_second = None
    rest = response.read()
    response.close()
    connection.close()

    assert start + rest == content


def test_close_closes_connections_and_removes_files(tmp_path: Path) -> None:
    """Closing ends a throttled body, the thread, the listening port and generated files."""
    before = set(threading.enumerate())
    hub = HubServer(cdn_bytes_per_second=1.0)
    with hub:
        repo = hub.create_repo("acme/tiny", files=FILES)
        generated = repo.blob("weights/model.safetensors").source
        port = urlsplit(hub.endpoint).port
        parts = urlsplit(resolve(hub).headers["location"])
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        connection.request("GET", f"{parts.path}?{parts.query}")
        response = connection.getresponse()
        assert generated.exists()

    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        response.read()
    connection.close()
    assert set(threading.enumerate()) == before
    assert not generated.exists()
    refused = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with pytest.raises(ConnectionRefusedError):
        refused.connect()


def test_a_server_that_is_not_running_raises() -> None:
    """Before the start and after `close`, use raises RuntimeError."""
    hub = HubServer()
    with pytest.raises(RuntimeError, match="not running"):
        hub.create_repo("a/b")
    with hub:
        pass
    with pytest.raises(RuntimeError, match="not running"):
        _ = hub.endpoint
    with pytest.raises(RuntimeError, match="only once"):
        hub.start()


def test_taken_ids_and_unknown_types_are_rejected(tiny: Repo, hub: HubServer) -> None:
    """Creating, and renaming to, an existing id raises, and so does an unknown type."""
    hub.create_repo("acme/other")
    with pytest.raises(ValueError, match="already"):
        hub.create_repo("acme/tiny")
    with pytest.raises(ValueError, match="already"):
        hub.rename_repo("acme/other", "acme/tiny")
    with pytest.raises(ValueError, match="repo_type"):
        hub.create_repo("acme/new", repo_type="models")  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_it_is_also_an_asynchronous_context_manager() -> None:
    """`async with` starts and stops the server on any event loop."""
    async with HubServer() as hub:
        assert hub.endpoint.startswith("http://127.0.0.1:")
    with pytest.raises(RuntimeError, match="not running"):
        _ = hub.endpoint


def test_https(tmp_path: Path) -> None:
    """With a certificate both hosts serve HTTPS, and a large body is complete."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_context, client_context = _contexts(authority)
    with HubServer(ssl_context=server_context) as hub:
        repo = hub.create_repo("acme/tiny", files=FILES)
        results = []
        url = f"{hub.endpoint}/acme/tiny/resolve/main/weights/model.safetensors"
        for _ in range(2):
            parts = urlsplit(url)
            connection = http.client.HTTPSConnection(
                parts.netloc, timeout=10, context=client_context
            )
            connection.request("GET", f"{parts.path}?{parts.query}")
            response = connection.getresponse()
            results.append(response.read())
            url = response.headers["Location"]
            connection.close()

        assert results[1] == repo.blob("weights/model.safetensors").read_bytes()
        assert hub.cdn_endpoint.startswith("https://localhost:")


def _contexts(authority: object) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    import ssl

    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    client = ssl.create_default_context()
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)  # type: ignore[attr-defined]
    authority.configure_trust(client)  # type: ignore[attr-defined]
    return server, client


def test_a_client_that_disconnects_is_not_logged(
    hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that closes the connection within a body causes no log message."""
    hub.create_repo("acme/big", direct=True, files={"w.bin": RandomFile(64 << 20)})
    parts = urlsplit(hub.endpoint)
    for _ in range(3):
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        connection.request("GET", "/acme/big/resolve/main/w.bin")
        assert connection.getresponse().read(1000)
        connection.sock.close()
        connection.close()
    assert hub.wait_idle()

    assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == []
