"""Damage in transit on stores that state an MD5 and no checksum, and what the report says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hftransfer.errors import IntegrityError, NetworkError
from support.scripted_s3 import LARGE, MIB, SMALL, client_of, requests_of, running

pytestmark = pytest.mark.asyncio

PLAIN: dict[str, Any] = {"checksums": False}
CARELESS: dict[str, Any] = {"checksums": False, "content_md5": False}


def make_files(folder: Path) -> Path:
    folder.mkdir()
    (folder / "large").write_bytes(LARGE)
    (folder / "small").write_bytes(SMALL)
    return folder


# --- uploads


@pytest.mark.parametrize("name", ["large", "small"])
@pytest.mark.parametrize("script", [{}, PLAIN, CARELESS], ids=["checksums", "md5", "etag only"])
@pytest.mark.parametrize("overwrite", [True, False])
async def test_a_damaged_upload_is_sent_again(
    tmp_path: Path, script: dict[str, Any], name: str, overwrite: bool
) -> None:
    """By a checksum, by Content-MD5, or by the ETag alone; also under If-None-Match."""
    files = make_files(tmp_path / "in")
    with running(**script, damaged_uploads=1) as store:
        async with client_of(store, overwrite=overwrite) as client:
            report = await client.copy(files / name, f"s3://bkt/{name}")

        assert store.objects["bkt", name].data == (files / name).read_bytes()
        assert (report.retries, report.verified, report.unverified) == (1, 1, 0)


@pytest.mark.parametrize("name", ["large", "small"])
async def test_an_upload_that_stays_damaged_leaves_nothing(tmp_path: Path, name: str) -> None:
    """The error says so, and neither an object nor an open upload remains."""
    files = make_files(tmp_path / "in")
    with running(**CARELESS, damaged_uploads=1000) as store:
        async with client_of(store) as client:
            with pytest.raises(NetworkError, match="the upload was damaged in transit"):
                await client.copy(files / name, f"s3://bkt/{name}")

        assert ("bkt", name) not in store.objects
        assert store.open_uploads() == []


async def test_an_upload_that_nothing_confirms_is_reported(tmp_path: Path) -> None:
    """Without checksums and with ETags that are no MD5s, as with SSE-KMS."""
    files = make_files(tmp_path / "in")
    with running(**PLAIN, etags="opaque") as store:
        async with client_of(store) as client:
            report = await client.copy(files, "s3://bkt/m")

    assert (report.files, report.verified, report.unverified) == (2, 0, 2)
    assert report.to_dict()["unverified"] == 2


async def test_a_confirmed_upload_counts_as_verified(tmp_path: Path) -> None:
    """By checksums that the store repeats, and by MD5s."""
    files = make_files(tmp_path / "in")
    for script in ({}, PLAIN):
        with running(**script) as store:
            async with client_of(store) as client:
                report = await client.copy(files, "s3://bkt/m")

        assert (report.verified, report.unverified) == (2, 0)


async def test_without_verify_no_md5_is_compared(tmp_path: Path) -> None:
    """For stores whose ETags look like MD5s and are none; the report says that nothing was."""
    files = make_files(tmp_path / "in")
    with running(**CARELESS, damaged_uploads=4) as store:
        async with client_of(store, verify=False) as client:
            report = await client.copy(files, "s3://bkt/m")

        assert (report.verified, report.unverified) == (0, 2)
        assert not any("Content-MD5" in request.headers for request in store.requests)


# --- downloads


@pytest.mark.parametrize("part_size", [None, 5 * MIB, 6 * MIB, 20 * MIB])
async def test_a_damaged_download_of_a_large_object_is_not_published(
    tmp_path: Path, part_size: int | None
) -> None:
    """The ETag is its MD5, or the MD5 of the MD5s of parts whose size the store tells."""
    with running() as store:
        store.put("bkt", "big", LARGE, part_size=part_size)
        async with client_of(store) as client:
            store.script.damaged_downloads = 1
            report = await client.copy("s3://bkt/big", tmp_path / "out")
            store.script.damaged_downloads = 1000
            with pytest.raises(IntegrityError, match=r"md5.* mismatch"):
                await client.copy("s3://bkt/big", tmp_path / "never")

    assert (tmp_path / "out").read_bytes() == LARGE
    assert (report.retries, report.verified, report.unverified) == (1, 1, 0)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("size", "part_size"), [(7, None), (7, 8), (3 * MIB, None), (3 * MIB, MIB), (5 * MIB, 2 * MIB)]
)
async def test_a_damaged_download_of_a_small_object_is_read_again(
    tmp_path: Path, size: int, part_size: int | None
) -> None:
    """The response's own ETag is compared; no HEAD is needed for an object of one part."""
    data = LARGE[:size]
    with running() as store:
        store.put("bkt", "a", data, part_size=part_size)
        async with client_of(store) as client:
            store.script.damaged_downloads = 1
            report = await client.copy("s3://bkt/a", tmp_path / "out")
            heads = requests_of(store, "HEAD")
            store.script.damaged_downloads = 1000
            with pytest.raises(IntegrityError, match=r"md5.* mismatch"):
                await client.copy("s3://bkt/a", tmp_path / "never")

    assert (tmp_path / "out").read_bytes() == data
    assert (report.retries, report.verified, report.unverified) == (1, 1, 0)
    assert not (tmp_path / "never").exists()
    assert heads == (0 if part_size is None or part_size > size else 2)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_download_with_nothing_to_compare_is_reported(tmp_path: Path, data: bytes) -> None:
    """An object whose ETag is no MD5 and that has no checksum is moved, and counted."""
    with running(etags="opaque") as store:
        store.put("bkt", "a", data)
        async with client_of(store) as client:
            report = await client.copy("s3://bkt/a", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == data
    assert (report.verified, report.unverified) == (0, 1)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_parts_of_unknown_size_are_reported(tmp_path: Path, data: bytes) -> None:
    """Parts of different sizes: the MD5 of their MD5s cannot be computed."""
    with running() as store:
        store.put("bkt", "a", data, part_size=len(data) // 3 + 1)
        stored = store.objects["bkt", "a"]
        store.objects["bkt", "a"] = type(stored)(data, stored.etag, parts=(1, 2, len(data) - 3))
        async with client_of(store) as client:
            report = await client.copy("s3://bkt/a", tmp_path / "out")

    assert (report.verified, report.unverified) == (0, 1)


async def test_both_ways_count_of_a_copy_through_this_machine() -> None:
    """A file is verified only if it was compared on arrival and at its destination."""
    with running(copies="refused") as store:
        store.put("bkt", "from/a", SMALL)
        store.put("bkt", "from/b", LARGE)
        async with client_of(store) as client:
            checked = await client.copy("s3://bkt/from", "s3://bkt/to")
            store.script.etags = "opaque"
            store.put("bkt", "more/a", SMALL)
            unchecked = await client.copy("s3://bkt/more", "s3://bkt/to")

        assert (checked.verified, checked.unverified) == (2, 0)
        assert (unchecked.verified, unchecked.unverified) == (0, 1)


async def test_verify_reads_the_same_digests(tmp_path: Path) -> None:
    """`verify` finds what a download would refuse, for each kind of ETag."""
    with running() as store:
        store.put("bkt", "v/one", SMALL)
        store.put("bkt", "v/parts", LARGE, part_size=5 * MIB)
        async with client_of(store) as client:
            assert (await client.verify("s3://bkt/v")).ok
            store.script.damaged_downloads = 1000
            result = await client.verify("s3://bkt/v")

    assert sorted(result.wrong) == ["one", "parts"]


async def test_settings_of_the_aws_sdks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``when_required`` no checksum is sent, and no response is compared."""
    files = make_files(tmp_path / "in")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "WHEN_REQUIRED")
    with running() as store:
        async with client_of(store) as client:
            sent = await client.copy(files, "s3://bkt/m")
            received = await client.copy("s3://bkt/m", tmp_path / "out")
            assert (await client.verify("s3://bkt/m")).ok
        headers = {name.lower() for request in store.requests for name in request.headers}

    assert (sent.verified, sent.unverified) == (2, 0)  # by MD5
    assert (received.verified, received.unverified) == (0, 2)
    names = {name for name in headers if name.startswith("x-amz-checksum")}
    assert names <= {"x-amz-checksum-mode"}  # `verify` asks for it
