"""`verify`: files compared with a manifest, with the Hub, or with the store's own checksums."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hftransfer import AsyncClient, Client, Manifest, S3Options, TransferOptions
from hftransfer.errors import IntegrityError, NotFoundError, UnsupportedError
from hftransfer.testing import HubServer, RandomFile
from support.files import flip_bit, make_tree
from support.s3 import Bucket, s3_client

KIB = 1024
OPTIONS = TransferOptions(chunk_size=64 * KIB, connections=4)
MINIO = pytest.mark.parametrize("s3_server", ["minio"], indirect=True)


def options(bucket: Bucket) -> TransferOptions:
    return replace(OPTIONS, s3=S3Options(endpoint_url=bucket.server.endpoint))


# --- against a manifest


def test_a_copy_matches_its_sidecar(tmp_path: Path) -> None:
    """`verify` finds the sidecar that `copy` wrote and compares every file with it."""
    with Client(OPTIONS) as client:
        client.copy(make_tree(tmp_path / "in"), tmp_path / "out", sidecar=True)
        found = client.verify(tmp_path / "out")

    assert found.ok
    assert (found.files, found.bytes) == (3, 300 * KIB + 4)
    assert found.against == "the .hftransfer manifest"
    assert json.loads((tmp_path / "out" / ".hftransfer").read_text())["version"] == 1


def test_every_difference_is_reported(tmp_path: Path) -> None:
    """A flipped bit, a truncated file, a missing file and an unknown one, in one verification."""
    with Client(OPTIONS) as client:
        client.copy(make_tree(tmp_path / "in"), tmp_path / "out", sidecar=True)
        flip_bit(tmp_path / "out" / "a.bin", 200 * KIB)
        (tmp_path / "out" / "sub" / "b.txt").write_bytes(b"tex")
        (tmp_path / "out" / "empty").unlink()
        (tmp_path / "out" / "new").write_bytes(b"x")
        found = client.verify(tmp_path / "out")
        chosen = client.verify(tmp_path / "out", allow_patterns="sub/*")

    assert not found.ok
    assert sorted(found.wrong) == ["a.bin", "sub/b.txt"]
    assert f"bytes {192 * KIB}-{256 * KIB - 1}" in found.wrong["a.bin"]
    assert "expected 4 bytes, got 3" in found.wrong["sub/b.txt"]
    assert found.missing == ("empty",)
    assert found.unchecked == ("new",)
    assert sorted(chosen.wrong) == ["sub/b.txt"]
    assert chosen.missing == ()


def test_a_single_file_has_its_sidecar_beside_it(tmp_path: Path) -> None:
    """The sidecar of NAME is ``NAME.hftransfer``; a manifest argument takes precedence."""
    source = make_tree(tmp_path / "in") / "a.bin"
    with Client(OPTIONS) as client:
        report = client.copy(source, tmp_path / "copy.bin", sidecar=True)
        beside = (tmp_path / "copy.bin.hftransfer").read_text()
        assert list(Manifest.from_dict(json.loads(beside)).files) == ["copy.bin"]
        renamed = Manifest(source="x", files={"copy.bin": report.manifest.files["a.bin"]})
        assert client.verify(tmp_path / "copy.bin").ok
        assert client.verify(tmp_path / "copy.bin", manifest=renamed).ok
        flip_bit(tmp_path / "copy.bin", 0)
        assert not client.verify(tmp_path / "copy.bin").ok


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', ""])
def test_a_damaged_sidecar_is_an_error(tmp_path: Path, text: str) -> None:
    """A sidecar that cannot be parsed fails the verification; it is not ignored."""
    folder = make_tree(tmp_path / "in")
    (folder / ".hftransfer").write_text(text)

    with Client(OPTIONS) as client, pytest.raises(IntegrityError, match="manifest"):
        client.verify(folder)


def test_a_folder_without_digests_cannot_be_verified(tmp_path: Path) -> None:
    """Without a manifest or digests the result is an error, not success."""
    with Client(OPTIONS) as client:
        with pytest.raises(UnsupportedError, match="give a manifest"):
            client.verify(make_tree(tmp_path / "in"))
        with pytest.raises(NotFoundError):
            client.verify(tmp_path / "absent")


# --- against the Hub


def test_a_local_copy_is_compared_with_the_hub(hub: HubServer, tmp_path: Path) -> None:
    """Sizes and digests come from the Hub's listing: no file content is downloaded."""
    hub.create_repo("acme/m", files={"config.json": b"{}", "w.bin": RandomFile(200 * KIB, seed=1)})
    settings = replace(OPTIONS, hub=replace(OPTIONS.hub, endpoint=hub.endpoint))
    with Client(settings) as client:
        client.copy("hf://acme/m", tmp_path / "m")
        hub.clear_requests()
        intact = client.verify(tmp_path / "m", against="hf://acme/m")
        flip_bit(tmp_path / "m" / "config.json", 1)
        (tmp_path / "m" / "w.bin").unlink()
        damaged = client.verify(tmp_path / "m", against="hf://acme/m")

    assert intact.ok
    assert intact.files >= 2
    assert list(damaged.wrong) == ["config.json"]
    assert "w.bin" in damaged.missing
    assert not [request for request in hub.requests if request.host == "cdn"]


def test_a_repository_is_compared_with_its_own_digests(hub: HubServer) -> None:
    """Verifying an ``hf://`` location reads every selected file from the Hub."""
    hub.create_repo("acme/m", files={"config.json": b"{}", "w.bin": RandomFile(200 * KIB, seed=1)})
    settings = replace(OPTIONS, hub=replace(OPTIONS.hub, endpoint=hub.endpoint))
    with Client(settings) as client:
        found = client.verify("hf://acme/m", allow_patterns=["config.json", "w.bin"])

    assert found.ok
    assert (found.files, found.bytes) == (2, 200 * KIB + 2)


# --- on S3


@MINIO
@pytest.mark.asyncio
async def test_objects_are_compared_with_their_sidecar(bucket: Bucket, tmp_path: Path) -> None:
    """The sidecar is an object under the prefix; a replaced object is reported as wrong."""
    async with AsyncClient(options(bucket)) as client:
        await client.copy(make_tree(tmp_path / "in"), f"{bucket.url}/m", sidecar=True)
        await client.copy(tmp_path / "in/a.bin", f"{bucket.url}/one.bin", sidecar=True)
        assert (await client.verify(f"{bucket.url}/m")).files == 3
        assert (await client.verify(f"{bucket.url}/one.bin")).files == 1
        s3_client(bucket.server).put_object(Bucket=bucket.name, Key="m/sub/b.txt", Body=b"TEXT")
        found = await client.verify(f"{bucket.url}/m")

    assert list(found.wrong) == ["sub/b.txt"]
    assert found.files == 2


@MINIO
@pytest.mark.asyncio
async def test_objects_are_compared_with_the_stores_checksums(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Without a manifest the store's digests count: full-object CRCs, and the MD5 in an ETag."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "large").write_bytes(os.urandom(11 << 20))
    s3_client(bucket.server).put_object(Bucket=bucket.name, Key="m/old", Body=b"content")
    async with AsyncClient(replace(options(bucket), chunk_size=5 << 20)) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/m")
        found = await client.verify(f"{bucket.url}/m")

    assert found.ok
    assert found.files == 2
