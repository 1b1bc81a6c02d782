"""`verify`: what is stored, compared with a manifest, with the Hub, or with the store's word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hftransfer import AsyncClient, Client, Manifest, S3Options, TransferOptions
from hftransfer.errors import IntegrityError, NotFoundError, UnsupportedError
from hftransfer.testing import HubServer, RandomFile
from support.s3 import Bucket, s3_client

KIB = 1024
OPTIONS = TransferOptions(chunk_size=64 * KIB, connections=4)
MINIO = pytest.mark.parametrize("s3_server", ["minio"], indirect=True)


def tree(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(os.urandom(300 * KIB))
    (folder / "sub" / "b.txt").write_bytes(b"text")
    (folder / "empty").touch()
    return folder


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def options(bucket: Bucket) -> TransferOptions:
    return replace(OPTIONS, s3=S3Options(endpoint_url=bucket.server.endpoint))


# --- against a manifest


def test_a_copy_with_its_sidecar_is_right(tmp_path: Path) -> None:
    """What `copy` wrote beside the files is found again, and every file is compared with it."""
    with Client(OPTIONS) as client:
        client.copy(tree(tmp_path / "in"), tmp_path / "out", sidecar=True)
        found = client.verify(tmp_path / "out")

    assert found.ok
    assert (found.files, found.bytes) == (3, 300 * KIB + 4)
    assert found.against == "the manifest beside it"
    assert json.loads((tmp_path / "out" / ".hftransfer").read_text())["version"] == 1


def test_everything_that_is_not_right_is_named(tmp_path: Path) -> None:
    """A flipped bit, a shorter file, a missing and an unknown one: all in one pass."""
    with Client(OPTIONS) as client:
        client.copy(tree(tmp_path / "in"), tmp_path / "out", sidecar=True)
        flip(tmp_path / "out" / "a.bin", 200 * KIB)
        (tmp_path / "out" / "sub" / "b.txt").write_bytes(b"tex")
        (tmp_path / "out" / "empty").unlink()
        (tmp_path / "out" / "new").write_bytes(b"x")
        found = client.verify(tmp_path / "out")
        chosen = client.verify(tmp_path / "out", allow_patterns="sub/*")

    assert not found.ok
    assert sorted(found.wrong) == ["a.bin", "sub/b.txt"]
    assert f"bytes {192 * KIB}-{256 * KIB - 1}" in found.wrong["a.bin"]
    assert "3 bytes are there, 4 were recorded" in found.wrong["sub/b.txt"]
    assert found.missing == ("empty",)
    assert found.unchecked == ("new",)
    assert sorted(chosen.wrong) == ["sub/b.txt"]
    assert chosen.missing == ()


def test_a_single_file_has_its_manifest_beside_it(tmp_path: Path) -> None:
    """``NAME.hftransfer`` belongs to NAME, and a manifest that is given comes first."""
    source = tree(tmp_path / "in") / "a.bin"
    with Client(OPTIONS) as client:
        report = client.copy(source, tmp_path / "copy.bin", sidecar=True)
        beside = (tmp_path / "copy.bin.hftransfer").read_text()
        assert list(Manifest.from_dict(json.loads(beside)).files) == ["copy.bin"]
        renamed = Manifest(source="x", files={"copy.bin": report.manifest.files["a.bin"]})
        assert client.verify(tmp_path / "copy.bin").ok
        assert client.verify(tmp_path / "copy.bin", manifest=renamed).ok
        flip(tmp_path / "copy.bin", 0)
        assert not client.verify(tmp_path / "copy.bin").ok


def test_a_damaged_sidecar_is_no_success(tmp_path: Path) -> None:
    """A manifest that cannot be read is an error of its own, never nothing to check."""
    folder = tree(tmp_path / "in")
    for text in ("{", "[]", '{"format": "other"}', ""):
        (folder / ".hftransfer").write_text(text)
        with Client(OPTIONS) as client, pytest.raises(IntegrityError, match="manifest"):
            client.verify(folder)


def test_nobody_knows(tmp_path: Path) -> None:
    """A folder without any digests is not called right."""
    with Client(OPTIONS) as client:
        with pytest.raises(UnsupportedError, match="give a manifest"):
            client.verify(tree(tmp_path / "in"))
        with pytest.raises(NotFoundError):
            client.verify(tmp_path / "absent")


# --- against the Hub


def test_a_local_copy_is_compared_with_the_hub(hub: HubServer, tmp_path: Path) -> None:
    """Sizes and digests come from the listing: not a byte of the files is downloaded."""
    hub.create_repo("acme/m", files={"config.json": b"{}", "w.bin": RandomFile(200 * KIB, seed=1)})
    settings = replace(OPTIONS, hub=replace(OPTIONS.hub, endpoint=hub.endpoint))
    with Client(settings) as client:
        client.copy("hf://acme/m", tmp_path / "m")
        hub.clear_requests()
        right = client.verify(tmp_path / "m", against="hf://acme/m")
        flip(tmp_path / "m" / "config.json", 1)
        (tmp_path / "m" / "w.bin").unlink()
        wrong = client.verify(tmp_path / "m", against="hf://acme/m")

    assert right.ok
    assert right.files >= 2
    assert list(wrong.wrong) == ["config.json"]
    assert "w.bin" in wrong.missing
    assert not [request for request in hub.requests if request.host == "cdn"]


def test_a_repository_is_compared_with_its_own_digests(hub: HubServer) -> None:
    """Verifying the Hub itself reads everything and stores nothing."""
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
    """The manifest lies under the prefix; an object that was replaced is found."""
    async with AsyncClient(options(bucket)) as client:
        await client.copy(tree(tmp_path / "in"), f"{bucket.url}/m", sidecar=True)
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
    """Without a manifest the store's own word counts: CRCs of wholes, the MD5 of old uploads."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "large").write_bytes(os.urandom(11 << 20))
    s3_client(bucket.server).put_object(Bucket=bucket.name, Key="m/old", Body=b"content")
    async with AsyncClient(replace(options(bucket), chunk_size=5 << 20)) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/m")
        found = await client.verify(f"{bucket.url}/m")

    assert found.ok
    assert found.files == 2


# --- as a process


def run(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hftransfer", *map(str, arguments)],
        env={**os.environ, "HFTRANSFER_CHUNK_SIZE": "64KiB", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_command_line_tells_right_from_wrong(tmp_path: Path) -> None:
    """Exit code 0 or 6, one line per file that differs, and JSON for machines."""
    tree(tmp_path / "in")
    assert run("cp", "--sidecar", tmp_path / "in", tmp_path / "out").returncode == 0
    right = run("verify", tmp_path / "out")
    flip(tmp_path / "out" / "a.bin", 0)
    (tmp_path / "out" / "empty").unlink()
    wrong = run("verify", tmp_path / "out")
    machine = run("verify", "--json", tmp_path / "out")
    given = run("verify", "--manifest", tmp_path / "out" / ".hftransfer", tmp_path / "in")

    assert right.returncode == 0, right.stderr
    assert right.stdout.startswith("3 files are right, 300.0 KiB read")
    assert wrong.returncode == 6
    lines = wrong.stdout.splitlines()
    assert lines[0].startswith("wrong    a.bin: XXH3 mismatch at bytes 0-65535 of ")
    assert lines[1] == "missing  empty"
    assert lines[2].startswith("1 files are right, 1 wrong, 1 missing, ")  # wrong bytes are reread
    assert lines[2].endswith(" read, by the manifest beside it")
    assert machine.returncode == 6
    assert machine.stderr == ""
    result = json.loads(machine.stdout)
    assert (result["ok"], list(result["wrong"]), result["missing"]) == (False, ["a.bin"], ["empty"])
    assert given.returncode == 0, given.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["DIR"], 1, "nobody says"),
        (["DIR/none"], 3, "no such file"),
        (["--manifest", "DIR/none", "DIR"], 3, "cannot read the manifest"),
        (["--manifest", "DIR/a.bin", "DIR"], 6, "is no manifest"),
        (["--manifest", "x", "--against", "y", "DIR"], 2, "not allowed with"),
    ],
)
def test_what_cannot_be_verified(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    """Each reason has its exit code, and none of them is success."""
    folder = tree(tmp_path / "in")
    finished = run("verify", *[each.replace("DIR", str(folder)) for each in arguments])

    assert finished.returncode == code, finished.stderr
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
