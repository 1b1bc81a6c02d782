"""``overwrite=False`` on stores that honour If-None-Match, ignore it, or refuse the header."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hftransfer.errors import AccessError, DestinationError, Response
from hftransfer.stores.s3.conditions import BucketConditions, Condition, ExclusiveWrites
from hftransfer.stores.s3.errors import response_error
from support.scripted_s3 import LARGE, SMALL, client_of, requests_of, running

pytestmark = pytest.mark.asyncio

IGNORED = {"put_conditions": False, "complete_conditions": False}


def make_files(folder: Path) -> Path:
    folder.mkdir()
    (folder / "large").write_bytes(LARGE)
    (folder / "small").write_bytes(SMALL)
    return folder


@pytest.mark.parametrize("script", [{}, IGNORED], ids=["honoured", "ignored"])
@pytest.mark.parametrize("name", ["large", "small"])
async def test_an_object_is_never_replaced(
    tmp_path: Path, script: dict[str, bool], name: str
) -> None:
    """Whether or not the store honours the condition; of a large file no byte is sent."""
    files = make_files(tmp_path / "in")
    with running(**script) as store:
        store.put("bkt", name, b"theirs")
        async with client_of(store, overwrite=False) as client:
            with pytest.raises(DestinationError, match="exists already"):
                await client.copy(files / name, f"s3://bkt/{name}")

        assert store.objects["bkt", name].data == b"theirs"
        assert requests_of(store, "POST") == 0
        assert requests_of(store, "PUT") == 0


@pytest.mark.parametrize("name", ["large", "small"])
async def test_a_store_that_ignores_the_condition_is_found_out(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The report says that the write was not atomic; the object has the file's bytes."""
    files = make_files(tmp_path / "in")
    with running(**IGNORED) as store:
        async with client_of(store, overwrite=False) as client:
            with caplog.at_level(logging.WARNING, "hftransfer"):
                report = await client.copy(files / name, f"s3://bkt/{name}")

        assert report.non_atomic == 1
        assert report.to_dict()["non_atomic"] == 1
        assert store.objects["bkt", name].data == (files / name).read_bytes()
        assert store.open_uploads() == []
    warned = "does not honour If-None-Match on PutObject" in caplog.text
    assert warned == (name == "small")  # of the large object nothing is proven


async def test_a_store_that_honours_it_proves_it_once(tmp_path: Path) -> None:
    """The first PUT is repeated and refused; from then on nothing is looked up before a PUT."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / str(number)).write_bytes(SMALL * number)
    with running() as store:
        async with client_of(store, overwrite=False) as client:
            await client.copy(folder / "3", "s3://bkt/first")
            store.requests.clear()
            report = await client.copy(folder, "s3://bkt/more")

            assert (report.files, report.non_atomic) == (5, 0)
            assert requests_of(store, "HEAD") == 0
            assert requests_of(store, "PUT") == 5


async def test_a_multipart_upload_proves_it_by_a_second_completion(tmp_path: Path) -> None:
    """The store refuses it, since the object exists: the report counts no file."""
    files = make_files(tmp_path / "in")
    with running() as store:
        async with client_of(store, overwrite=False) as client:
            report = await client.copy(files / "large", "s3://bkt/large")

        assert report.non_atomic == 0
        assert requests_of(store, "POST", uploads="") == 1
        assert requests_of(store, "POST") == 3


async def test_put_and_completion_are_told_apart(tmp_path: Path) -> None:
    """As on gofakes3: only the large file is counted."""
    files = make_files(tmp_path / "in")
    with running(complete_conditions=False) as store:
        async with client_of(store, overwrite=False) as client:
            report = await client.copy(files, "s3://bkt/m")

    assert (report.files, report.non_atomic) == (2, 1)


@pytest.mark.parametrize("name", ["large", "small"])
async def test_a_store_that_refuses_the_header_gets_none(tmp_path: Path, name: str) -> None:
    """501 to If-None-Match: the object is looked up, and the report says so."""
    files = make_files(tmp_path / "in")
    with running(refused_headers=frozenset({"if-none-match"})) as store:
        async with client_of(store, overwrite=False) as client:
            report = await client.copy(files / name, f"s3://bkt/{name}")
            with pytest.raises(DestinationError, match="exists already"):
                store.put("bkt", "other", b"theirs")
                await client.copy(files / name, "s3://bkt/other")

        assert report.non_atomic == 1
        assert store.objects["bkt", name].data == (files / name).read_bytes()


@pytest.mark.parametrize("script", [{}, IGNORED], ids=["honoured", "ignored"])
async def test_a_copy_within_the_store_never_replaces_an_object(script: dict[str, bool]) -> None:
    """Neither by CopyObject nor after a fallback; a copy under an ignored condition is counted."""
    with running(**script) as store:
        store.put("bkt", "from", SMALL)
        store.put("bkt", "taken", b"theirs")
        async with client_of(store, overwrite=False) as client:
            with pytest.raises(DestinationError, match="exists already"):
                await client.copy("s3://bkt/from", "s3://bkt/taken")
            report = await client.copy("s3://bkt/from", "s3://bkt/new")

        assert store.objects["bkt", "taken"].data == b"theirs"
        assert store.objects["bkt", "new"].data == SMALL
        assert report.server_side_bytes == len(SMALL)
        assert report.non_atomic == (1 if script else 0)


async def test_without_permission_to_look_nothing_is_written(tmp_path: Path) -> None:
    """Nobody could tell whether the object exists: the error says what to permit."""
    files = make_files(tmp_path / "in")
    with running(**IGNORED, forbidden_reads=True) as store:
        store.put("bkt", "small", b"theirs")
        async with client_of(store, overwrite=False) as client:
            for name in ("small", "large"):
                with pytest.raises(AccessError, match=r"permit s3:GetObject or s3:ListBucket"):
                    await client.copy(files / name, f"s3://bkt/{name}")
        async with client_of(store) as client:  # good practice, as long as it may overwrite
            await client.copy(files / "small", "s3://bkt/new")

        assert store.objects["bkt", "small"].data == b"theirs"
        assert store.objects["bkt", "new"].data == SMALL


async def test_a_lost_response_is_not_an_existing_object(tmp_path: Path) -> None:
    """On a store that ignores the condition, the retry finds the object that it wrote itself."""
    files = make_files(tmp_path / "in")
    for name in ("small", "large"):
        with running(**IGNORED, lost_responses=1) as store:
            async with client_of(store, overwrite=False) as client:
                report = await client.copy(files / name, f"s3://bkt/{name}")

            assert report.files == 1
            assert store.objects["bkt", name].data == (files / name).read_bytes()


# --- the decisions


def refusal(status: int) -> Response:
    return Response("PUT", "http://h/b/k", status, {})


async def test_only_a_refusal_proves_the_condition() -> None:
    """Neither a success of the probe nor another failure does."""
    for status, honoured in [(412, True), (500, None), (404, None)]:
        condition = Condition("PutObject", None)

        async def repeat(status: int = status) -> Response:
            raise response_error(refusal(status), "k")

        assert await condition.probe(repeat) is None
        assert condition.honoured is honoured
    succeeded = refusal(200)

    async def repeat_successfully() -> Response:
        return succeeded

    assert await condition.probe(repeat_successfully) is succeeded
    assert condition.honoured is None


async def test_a_known_condition_is_not_probed() -> None:
    """AWS documents it, and a store that ignored it once is asked no more."""

    async def repeat() -> Response:
        raise AssertionError("not needed")

    documented = BucketConditions.make(documented=True)
    ignored = Condition("PutObject", None)
    ignored.reject("k")
    for condition in (documented.put, documented.complete, documented.copy, ignored):
        assert await condition.probe(repeat) is None


async def test_writes_count_until_their_condition_is_proven() -> None:
    """A later proof holds for the earlier writes, too: they carried the same header."""
    conditions = BucketConditions.make(documented=False)
    writes = ExclusiveWrites()
    writes.record(conditions.put)
    writes.record(conditions.put)
    writes.record(conditions.complete)

    assert writes.non_atomic == 3
    conditions.put.confirm()
    assert writes.non_atomic == 1
