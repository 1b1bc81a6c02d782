"""The manifest that `copy` writes beside the files: what it has when they were there before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hftransfer import AsyncClient, Client, S3Options, TransferOptions
from support.files import make_tree
from support.s3 import Bucket, s3_client

OPTIONS = TransferOptions(chunk_size=64 * 1024, connections=4)
MINIO = pytest.mark.parametrize("s3_server", ["minio"], indirect=True)


def options(bucket: Bucket) -> TransferOptions:
    return replace(OPTIONS, s3=S3Options(endpoint_url=bucket.server.endpoint))


@MINIO
@pytest.mark.asyncio
async def test_a_second_copy_keeps_the_manifest_whole(bucket: Bucket, tmp_path: Path) -> None:
    """Files that the destination has already are in the manifest beside those that are sent."""
    source = make_tree(tmp_path / "in")
    target = f"{bucket.url}/m"
    async with AsyncClient(options(bucket)) as client:
        await client.copy(source, target, sidecar=True)
        unchanged = await client.copy(source, target, sidecar=True)
        assert (unchanged.files, unchanged.skipped) == (0, 3)
        found = await client.verify(target)
        assert (found.files, found.unchecked) == (3, ())

        (source / "a.bin").write_bytes(b"new")
        changed = await client.copy(source, target, sidecar=True)
        assert (changed.files, changed.skipped) == (1, 2)
        found = await client.verify(target)
        assert found.ok
        assert (found.files, found.unchecked) == (3, ())


@MINIO
@pytest.mark.asyncio
async def test_a_second_copy_of_one_file_keeps_its_manifest(bucket: Bucket, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "in") / "a.bin"
    target = f"{bucket.url}/one.bin"
    async with AsyncClient(options(bucket)) as client:
        await client.copy(source, target, sidecar=True)
        assert (await client.copy(source, target, sidecar=True)).skipped == 1
        assert (await client.verify(target)).files == 1
    stored = s3_client(bucket.server).get_object(Bucket=bucket.name, Key="one.bin.hftransfer")
    assert list(json.loads(stored["Body"].read())["files"]) == ["one.bin"]


def test_the_manifest_of_the_source_is_not_a_file_of_the_copy(tmp_path: Path) -> None:
    """A copy with a manifest of its own does not list the source's, which it has replaced."""
    with Client(OPTIONS) as client:
        client.copy(make_tree(tmp_path / "in"), tmp_path / "a", sidecar=True)
        client.copy(tmp_path / "a", tmp_path / "b", sidecar=True)
        client.copy(tmp_path / "a", tmp_path / "c")
        recorded = json.loads((tmp_path / "b/.hftransfer").read_text())
        assert recorded["source"] == str(tmp_path / "a")
        assert ".hftransfer" not in recorded["files"]
        assert client.verify(tmp_path / "b").ok
        assert client.verify(tmp_path / "c").ok


def test_a_manifest_beside_the_reference_is_not_missing(tmp_path: Path) -> None:
    """`against` a folder, and a manifest of a copy that included another one."""
    with Client(OPTIONS) as client:
        client.copy(make_tree(tmp_path / "in"), tmp_path / "a", sidecar=True)
        report = client.copy(tmp_path / "a", tmp_path / "b")
        assert ".hftransfer" in report.manifest.files
        (tmp_path / "b/.hftransfer").unlink()
        found = client.verify(tmp_path / "b", manifest=report.manifest)
        assert found.ok
        assert found.missing == ()
