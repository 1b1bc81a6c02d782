"""The pure parts of the test Hub: contents, digests, ranges, routes and signatures."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer.testing import RandomFile
from hftransfer.testing._content import BlobStore, git_blob_id
from hftransfer.testing._hub_cdn import UrlSigner
from hftransfer.testing._hub_routes import parse_route
from hftransfer.testing._responses import (
    FileBody,
    Response,
    UnsatisfiableRangeError,
    apply_conditions,
    parse_range,
)

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_random_file_depends_on_size_and_seed_only(size: int) -> None:
    """Sizes around the block boundaries; equal seeds give equal contents, others do not."""
    content = RandomFile(size, seed=1).read_bytes()

    assert len(content) == size
    assert RandomFile(size, seed=1).read_bytes() == content
    if size > 1:
        assert RandomFile(size, seed=2).read_bytes() != content


def test_random_file_blocks_differ() -> None:
    """No two blocks of a file are equal, so that a misplaced chunk is detected."""
    blocks = list(RandomFile(16 * MIB, seed=3).blocks())

    assert len(set(blocks)) == len(blocks) == 16


def test_random_file_rejects_a_negative_size() -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match="-1"):
        RandomFile(-1)


def test_blob_digests_agree_with_git_and_sha256(tmp_path: Path) -> None:
    """A regular file has the id of `git hash-object`, an LFS file the id of its pointer."""
    content = b"some text\n" * 100
    store = BlobStore(tmp_path)
    regular = store.add("a.txt", content, lfs_threshold=MIB)
    lfs = store.add("a.bin", content, lfs_threshold=MIB)

    from_git = subprocess.run(
        ["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True
    )
    assert regular.oid == from_git.stdout.decode().strip() == regular.etag
    assert not regular.is_lfs
    sha256 = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 1000\n"
    assert (lfs.etag, lfs.oid) == (sha256, git_blob_id(pointer.encode()))
    assert lfs.pointer_size == len(pointer)


def test_contents_are_stored_once_and_files_are_served_in_place(tmp_path: Path) -> None:
    """A RandomFile used twice is one file on disk; a Path is not copied."""
    here, store_root = tmp_path / "x.txt", tmp_path / "store"
    here.write_bytes(b"here")
    store_root.mkdir()
    store = BlobStore(store_root)
    first = store.add("a.bin", RandomFile(MIB), lfs_threshold=MIB)
    second = store.add("b.bin", RandomFile(MIB), lfs_threshold=MIB)

    assert first == second
    assert store.add("x.txt", here, lfs_threshold=MIB).source == here
    assert [path.name for path in store_root.iterdir()] == [first.source.name]


def test_a_content_of_another_type_is_rejected(tmp_path: Path) -> None:
    """A `str` in place of `bytes` is an error that names the file."""
    with pytest.raises(TypeError, match=r"config\.json.*str"):
        BlobStore(tmp_path).add("config.json", "{}", lfs_threshold=1)  # type: ignore[arg-type]


@given(size=st.integers(0, 50), first=st.integers(0, 60), length=st.integers(1, 60))
def test_parse_range_is_slicing(size: int, first: int, length: int) -> None:
    """Closed, open and suffix ranges select the same bytes as slices; empty ones raise."""
    content = bytes(range(size))
    cases = {
        f"bytes={first}-{first + length - 1}": content[first : first + length],
        f"bytes={first}-": content[first:],
        f"bytes=-{length}": content[-length:],
    }
    for header, expected in cases.items():
        try:
            piece = parse_range(header, size)
        except UnsatisfiableRangeError:
            assert expected == b""
        else:
            assert piece is not None
            assert content[slice(*piece)] == expected != b""


@pytest.mark.parametrize("header", ["bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "lines=1-2"])
def test_ranges_that_a_server_may_ignore_are_ignored(header: str) -> None:
    """Several ranges, other units and invalid syntax give None, that is the whole file."""
    assert parse_range(header, 10) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Range": "bytes=0-3"}, 206),
        ({"Range": "bytes=10-"}, 416),
        ({"Range": "bytes=0-3", "If-Range": '"e"'}, 206),
        ({"Range": "bytes=0-3", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=0-3", "If-Match": '"other", "e"'}, 206),
        ({"Range": "bytes=0-3", "If-Match": "*"}, 206),
        ({"Range": "bytes=0-3", "If-Match": '"other"'}, 412),
    ],
)
def test_preconditions(headers: dict[str, str], status: int) -> None:
    """If-Match decides on 412, If-Range on whether Range is used."""
    whole = Response(200, {"ETag": '"e"'}, FileBody(Path("x"), 0, 10, 10))

    assert apply_conditions(whole, headers).status == status


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/models/acme/tiny", ("info", "model", "acme/tiny", "main", "")),
        ("/api/models/bert", ("info", "model", "bert", "main", "")),
        ("/api/models/bert/revision/v2", ("info", "model", "bert", "v2", "")),
        (
            "/api/datasets/a/b/revision/refs%2Fpr%2F1",
            ("info", "dataset", "a/b", "refs/pr/1", ""),
        ),
        ("/api/spaces/a/b/tree/main/x/y%20z", ("tree", "space", "a/b", "main", "x/y z")),
        ("/api/models/a/tree/tree/main", ("tree", "model", "a/tree", "main", "")),
        ("/api/models/a/b/refs", ("refs", "model", "a/b", "main", "")),
        ("/bert/resolve/main/a/resolve", ("resolve", "model", "bert", "main", "a/resolve")),
        ("/a/b/resolve/refs/pr/1/c", ("resolve", "model", "a/b", "refs/pr/1", "c")),
        ("/datasets/a/b/resolve/main/c%3Fd", ("resolve", "dataset", "a/b", "main", "c?d")),
        (
            f"/api/resolve-cache/models/bert/{'a' * 40}/w/c.json",
            ("resolve-cache", "model", "bert", "a" * 40, "w/c.json"),
        ),
    ],
)
def test_routes(path: str, expected: tuple[str, ...]) -> None:
    """Ids with and without namespace, quoted revisions and nested paths are parsed."""
    route = parse_route(path)

    assert route is not None
    assert expected == (
        route.action,
        route.repo_type,
        route.repo_id,
        route.revision,
        route.path,
    )


@pytest.mark.parametrize("path", ["/", "/api", "/api/whoami-v2", "/api/models/a/b/tree", "/a/b/c"])
def test_unknown_paths_have_no_route(path: str) -> None:
    """Paths outside the Hub's API give None."""
    assert parse_route(path) is None


def test_expired_modified_or_out_of_range_urls_are_rejected() -> None:
    """Each reason for a rejection is named."""
    signer = UrlSigner()
    target = signer.sign("/p", "q=%2F", expires=100.0, expected_range=None)
    bound = signer.sign("/p", "q=%2F", expires=100.0, expected_range="bytes=0-9")

    assert signer.rejection(target, "bytes=5-6", now=99.9) is None
    assert signer.rejection(bound, "bytes=0-9", now=0) is None
    reasons = [
        signer.rejection(target, None, now=100.0),
        signer.rejection(target.replace("%2F", "/"), None, now=0),
        signer.rejection(target.replace("/p", "/other"), None, now=0),
        signer.rejection(bound, "bytes=0-8", now=0),
        signer.rejection(bound, None, now=0),
        signer.rejection("/p", None, now=0),
    ]
    signer.rotate()
    reasons.append(signer.rejection(target, None, now=0))
    assert [str(reason).rpartition(": ")[2] for reason in reasons] == [
        "expired",
        "invalid signature",
        "invalid signature",
        "invalid range",
        "invalid range",
        "Missing Key-Pair-Id query parameter or cookie value",
        "unknown key",
    ]
