"""What the cache of repositories stores, finds, repairs and resumes, without a flow.

A Hub on loopback, a local datastore and MinIO; the tasks are objects of this process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from hftransfer import DiskFullError, IntegrityError, TransferError
from hftransfer.testing import CorruptByte, Fault, HubServer, RandomFile, Repo, Stall, Status
from metaflow_extensions.hftransfer.plugins.engine.jobs import TransferJobs
from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest, parse_arguments
from metaflow_extensions.hftransfer.plugins.engine.reuse_sink import ReuseSink
from metaflow_extensions.hftransfer.plugins.hub.access import DATASTORE, SIBLING
from metaflow_extensions.hftransfer.plugins.hub.single_flight import Flight
from metaflow_extensions.hftransfer.plugins.hub.transfer import RepoTransfers
from support.files import tree
from support.hub import listings
from support.metaflow_stores import Datastore, checkpoint_store, python_path, repo_cache

pytestmark = [pytest.mark.metaflow, pytest.mark.timeout(120)]

REPO = "acme/model"
FILES: dict[str, bytes | RandomFile] = {
    ".gitattributes": b"*.bin filter=lfs\n",
    "config.json": b'{"revision": "main"}',
    "deep/vocab.txt": b"a\nb\n",
    "empty.txt": b"",
    "model.safetensors": RandomFile(20_000_000, seed=7),
}
ARTIFACTS = "mf.huggingface_hub/checkpoints/artifacts"
SINGLE = f"{ARTIFACTS}/Flow/start/scope/single"
UNFINISHED = "mf.huggingface_hub/checkpoints/unfinished"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[HubServer, Repo]]:
    with HubServer() as hub:
        repo = hub.create_repo(REPO, files=FILES)
        repo.create_branch("v2")
        repo.commit({"config.json": b'{"revision": "v2"}'}, revision="v2")
        yield hub, repo


@pytest.fixture
def hub(
    served: tuple[HubServer, Repo],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    clean_environ: Path,
) -> HubServer:
    """The Hub, and temporary folders of this test alone."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    served[0].clear_faults()
    served[0].clear_requests()
    return served[0]


@pytest.fixture
def lines() -> list[str]:
    """The log."""
    return []


def request_for(hub: HubServer, **arguments: Any) -> RepoRequest:
    return parse_arguments({"repo_id": REPO, "endpoint": hub.endpoint, **arguments})


def config(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["revision"])


def test_a_miss_reads_the_hub_once_and_a_hit_does_not(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """One pass writes to folder and datastore; the next task loads the same bytes from there."""
    _, hit = repo_cache(datastore, lines.append).load(request_for(hub), str(tmp_path / "a"))
    assert not hit
    assert listings(hub) == 1
    hub.clear_requests()

    cache = repo_cache(datastore, lines.append, task="Flow/2/start/1")
    reference, hit = cache.load(request_for(hub), str(tmp_path / "b"))

    assert hit
    assert hub.requests == []
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert set(tree(tmp_path / "a")) == set(FILES)
    assert reference["size"] == sum(len(data) for data in tree(tmp_path / "a").values())
    assert cache.accesses[0].summary.verified == "every chunk verified"
    assert sorted(datastore.keys(reference["key"])) == sorted(
        f"{reference['key']}/{path}" for path in FILES
    )


def test_a_reference_needs_no_disk(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """A download to S3 alone creates no file on the local disk."""
    if datastore.kind == "local":
        pytest.skip("the datastore is the disk")
    made: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and arguments[2] & (os.O_CREAT | os.O_TMPFILE):
            made.append(str(arguments[0]))

    watching = True
    sys.addaudithook(watch)
    repo_cache(datastore, lines.append).reference(request_for(hub))
    watching = False

    # Lock files: of the tasks that exclude each other, and of an upload in progress.
    assert {Path(path).suffix for path in made} <= {".creating", ".lock", ".upload"}


@pytest.mark.parametrize("scope", ["checkpoint", "flow", "global"])
def test_only_an_equal_request_is_a_hit(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str], scope: str
) -> None:
    """Other revisions and patterns are misses in every scope; equal requests are hits."""
    if datastore.kind == "s3":
        pytest.skip("the same code, tested on the local datastore")

    def load(name: str, **arguments: Any) -> bool:
        cache = repo_cache(datastore, lines.append, scope=scope, task=f"Flow/{name}/start/1")
        return bool(cache.load(request_for(hub, **arguments), str(tmp_path / name))[1])

    assert not load("main", allow_patterns="*.json")
    assert not load("v2", allow_patterns="*.json", revision="v2")
    assert not load("text", allow_patterns="*.txt")
    assert load("again", allow_patterns="*.json")
    assert load("v2again", allow_patterns="*.json", revision="v2")
    assert config(tmp_path / "main") == config(tmp_path / "again") == "main"
    assert config(tmp_path / "v2") == config(tmp_path / "v2again") == "v2"
    assert set(tree(tmp_path / "text")) == {"deep/vocab.txt", "empty.txt"}


def test_the_resolved_commit_is_recorded_and_found(
    datastore: Datastore, hub: HubServer, served: Any, tmp_path: Path, lines: list[str]
) -> None:
    """An entry has its commit, and satisfies a request for that commit."""
    cache = repo_cache(datastore, lines.append)
    reference, _ = cache.reference(request_for(hub, revision="v2", allow_patterns="*.json"))
    commit = reference["metadata"]["hftransfer"]["commit"]

    _, hit = cache.load(
        request_for(hub, revision=commit, allow_patterns="*.json"), str(tmp_path / "a")
    )

    assert commit == served[1].branches["v2"]
    assert hit


def test_later_tasks_get_the_forced_download(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """The newest entry is used, whatever the order of a listing."""
    request = request_for(hub, allow_patterns="*.json")
    forced = request_for(hub, allow_patterns="*.json", force_download=True)
    repo_cache(datastore, lines.append, task="Flow/9/start/9").reference(request)

    key = repo_cache(datastore, lines.append, task="Flow/5/start/1").reference(forced)[0]["key"]
    found, hit = repo_cache(datastore, lines.append, task="Flow/6/start/1").reference(request)

    assert hit
    assert found["key"] == key


def test_only_the_repositorys_files_are_touched_and_stored(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """Other files of a folder, huggingface_hub's metadata among them, are not stored."""
    target = tmp_path / "mine"
    (target / ".cache" / "huggingface").mkdir(parents=True)
    (target / ".cache" / "huggingface" / "x.lock").write_text("")
    (target / "private.env").write_text("SECRET")
    (target / "config.json").write_text("an older one")

    reference, _ = repo_cache(datastore, lines.append).load(request_for(hub), str(target))

    assert tree(target)["private.env"] == b"SECRET"
    assert config(target) == "main"
    assert set(tree(target)) == {*FILES, "private.env", ".cache/huggingface/x.lock"}
    assert len(datastore.keys(reference["key"])) == len(FILES)


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "all missing"])
def test_a_damaged_entry_is_reported_and_repaired(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str], damage: str
) -> None:
    """Files that do not match the manifest are downloaded again, into the same entry."""
    reference, _ = repo_cache(datastore, lines.append).reference(request_for(hub))
    key = f"{reference['key']}/model.safetensors"
    data = datastore.read(key)
    assert data is not None
    if damage == "changed":
        datastore.write(key, data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncated":
        datastore.write(key, data[:10])
    else:
        for path in FILES if damage == "all missing" else ["model.safetensors"]:
            delete(datastore, f"{reference['key']}/{path}")
    lines.clear()

    found, hit = repo_cache(datastore, lines.append).load(request_for(hub), str(tmp_path / "a"))

    assert hit
    assert found["key"] == reference["key"]
    assert tree(tmp_path / "a")["model.safetensors"] == data
    assert datastore.read(key) == data
    assert [line for line in lines if "is damaged" in line]
    assert [line for line in lines if "Repaired the stored copy of acme/model" in line]


def test_model_loads_are_repaired(
    datastore: Datastore,
    hub: HubServer,
    tmp_path: Path,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`@model(load=…)` of a damaged repository repairs it from the recorded commit."""
    reference, _ = repo_cache(datastore, lines.append).reference(request_for(hub, revision="v2"))
    datastore.write(f"{reference['key']}/config.json", b'{"revision": "xx"}')
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    folder, _, name = reference["key"].rpartition("/")
    components = folder.split("/")[1:]
    store = datastore.storage(*components, prefix="mf.huggingface_hub")

    store._load_objects(name, str(tmp_path / "a"))

    assert config(tmp_path / "a") == "v2"
    assert datastore.read(f"{reference['key']}/config.json") == b'{"revision": "v2"}'
    assert "is damaged" in capsys.readouterr().err


def test_a_damaged_entry_of_unknown_commit_is_replaced(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """Without a record and a manifest its size is checked; a new entry replaces it."""
    reference = store_upstream_entry(datastore, {"config.json": b'{"revision": "old"}'}, size=1000)

    found, hit = repo_cache(datastore, lines.append, task="Flow/2/start/1").load(
        request_for(hub), str(tmp_path / "a")
    )

    assert not hit
    assert found["key"] != reference["key"]
    assert config(tmp_path / "a") == "main"
    assert [line for line in lines if "expected 1000 bytes in all files, found 19" in line]


def test_an_empty_entry_is_not_taken_for_a_repository(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """An entry without files, as a dry run of metaflow-checkpoint stores it, is a miss."""
    store_upstream_entry(datastore, {".cache/huggingface/CACHEDIR.TAG": b"x" * 192}, size=192)

    _, hit = repo_cache(datastore, lines.append).load(request_for(hub), str(tmp_path / "a"))

    assert not hit
    assert set(tree(tmp_path / "a")) == set(FILES)


def test_metadata_of_huggingface_hub_is_not_loaded(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """Only the repository's files of an entry of metaflow-checkpoint are loaded."""
    store_upstream_entry(
        datastore, {"a.json": b"{}", ".cache/huggingface/a.lock": b"", ".huggingface/b": b"b"}
    )

    _, hit = repo_cache(datastore, lines.append).load(request_for(hub), str(tmp_path / "a"))

    assert hit
    assert tree(tmp_path / "a") == {"a.json": b"{}"}


@pytest.mark.parametrize("form", ["load", "reference"])
def test_a_failed_download_publishes_nothing(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str], form: str
) -> None:
    """It leaves no entry, no object and no file under its final name."""
    hub.add_fault(Fault(host="cdn", action=CorruptByte(5), times=None))
    cache = repo_cache(datastore, lines.append)

    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        if form == "load":
            cache.load(request_for(hub), str(tmp_path / "a"))
        else:
            cache.reference(request_for(hub))

    assert datastore.keys("mf.huggingface_hub") == []
    assert not (tmp_path / "a" / "model.safetensors").exists()


def test_a_retry_resumes_a_failed_attempt(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """With attempts left, received chunks are kept, and the next attempt requests the others."""
    hub.add_fault(Fault(host="cdn", ranged=True, action=Status(500), after=1, times=None))
    failing = repo_cache(datastore, lines.append, may_retry=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HFTRANSFER_ATTEMPTS", "1")
        patch.setenv("HFTRANSFER_CONNECTIONS", "1")
        # Memory for one chunk: the second is requested when the first is stored.
        patch.setenv("HFTRANSFER_MEMORY_BUDGET", "8MiB")
        with pytest.raises(TransferError):
            failing.load(request_for(hub), str(tmp_path / "a"))
    hub.clear_faults()
    hub.clear_requests()

    retry = repo_cache(datastore, lines.append, attempt=1)
    reference, _ = retry.load(request_for(hub), str(tmp_path / "a"))

    asked = [request.range for request in hub.requests if request.host == "cdn"]
    assert asked
    assert not [text for text in asked if text is None or text.startswith("bytes=0-")]
    assert set(tree(tmp_path / "a")) == set(FILES)
    assert set(datastore.keys(SINGLE)) == {f"{reference['key']}/{path}" for path in FILES}


@pytest.mark.parametrize("who", ["its retry", "a later run", "a sibling"])
def test_the_entry_of_a_killed_task_is_adopted(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str], who: str
) -> None:
    """The next download of the same files writes below its key, and deletes what it does not need.

    The next attempt, without @retry the next run, or in another task of the foreach.
    """
    killed = kill_after_begin(datastore, hub)
    for path in ("config.json", "of/another/commit.bin"):
        datastore.write(f"{killed}/{path}", b"half of it")
    tasks: dict[str, dict[str, Any]] = {
        "its retry": {"attempt": 1},
        "a later run": {"task": "Flow/2/start/7"},
        "a sibling": {"task": "Flow/2/start/8", "identifier": "other"},
    }
    task = tasks[who]

    reference, _ = repo_cache(datastore, lines.append, **task).load(
        request_for(hub), str(tmp_path / "a")
    )

    assert reference["key"] == killed
    assert datastore.keys(ARTIFACTS) == sorted(f"{killed}/{path}" for path in FILES)
    assert datastore.keys(UNFINISHED) == []
    assert [line for line in lines if "Resuming the unfinished entry" in line]
    identifier = task.get("identifier", "single")
    again, hit = repo_cache(datastore, lines.append, identifier=identifier).load(
        request_for(hub), str(tmp_path / "b")
    )
    assert hit
    assert again == reference
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("scope", ["checkpoint", "flow"])
def test_what_a_killed_task_began_is_removed(
    datastore: Datastore, hub: HubServer, lines: list[str], scope: str
) -> None:
    """In every scope, also if nobody requests the same files again."""
    killed = kill_after_begin(datastore, hub, scope=scope)
    datastore.write(f"{killed}/config.json", b"half of it")

    reference, _ = repo_cache(
        datastore, lines.append, task="Flow/2/start/7", scope=scope
    ).reference(request_for(hub, revision="v2", allow_patterns="*.json"))

    assert datastore.keys(ARTIFACTS) == [f"{reference['key']}/config.json"]
    assert datastore.keys(UNFINISHED) == []
    assert [line for line in lines if f"of a task that has died: {killed}" in line]


def test_what_a_living_task_writes_stays(
    datastore: Datastore, hub: HubServer, lines: list[str]
) -> None:
    """Another request does not touch the unfinished entry of a process that runs."""
    store = checkpoint_store(datastore, print)
    flight = Flight("1" * 32)
    with store.new_entry("name", flight) as entry:
        datastore.write(f"{entry.key}/config.json", b"half of it")

        repo_cache(datastore, lines.append, task="Flow/2/start/7").reference(
            request_for(hub, allow_patterns="*.json")
        )

        assert datastore.read(f"{entry.key}/config.json") == b"half of it"


def test_a_task_that_lost_its_entry_neither_publishes_nor_removes_it(
    datastore: Datastore, hub: HubServer
) -> None:
    """Another one took it over, because this one seemed to be dead."""
    store = checkpoint_store(datastore, print)
    flight = Flight("1" * 32)
    with pytest.raises(TransferError, match="taken over"), store.new_entry("name", flight) as entry:
        datastore.write(f"{entry.key}/config.json", b"of the other task")
        store._unfinished.claim(flight.name, entry.key, "Flow/2/start/7", may_retry=False)
        store.publish(entry, {"files": {"config.json": {"size": 17}}}, {})

    assert datastore.read(f"{entry.key}/config.json") == b"of the other task"


def test_a_published_entry_of_an_earlier_attempt_is_not_adopted(
    datastore: Datastore, hub: HubServer, lines: list[str]
) -> None:
    """A retry with force_download writes an entry of its own."""
    request = request_for(hub, force_download=True, allow_patterns="*.json")
    first, _ = repo_cache(datastore, lines.append).reference(request)

    second, _ = repo_cache(datastore, lines.append, attempt=1).reference(request)

    assert second["key"] != first["key"]
    assert second["attempt"] == 1


def test_existing_files_are_not_transferred(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """A load into a folder that has the files transfers only the others, from Hub or datastore."""
    shutil.copytree(load_once(hub, datastore, tmp_path, lines), tmp_path / "have")
    (tmp_path / "have" / "config.json").write_text("changed!!!!!!!!!!!!!")
    cache = repo_cache(datastore, lines.append, task="Flow/2/start/1")

    cache.load(request_for(hub), str(tmp_path / "have"))

    assert cache.accesses[0].summary.fetched <= 20
    assert config(tmp_path / "have") == "main"
    hub.clear_requests()
    if datastore.kind == "s3":
        forced = request_for(hub, force_download=True)
        repo_cache(datastore, lines.append, task="Flow/3/start/1").load(
            forced, str(tmp_path / "have")
        )
        assert [request for request in hub.requests if request.host == "cdn"] == []


@pytest.mark.parametrize("scope", ["checkpoint", "flow"])
def test_tasks_of_one_machine_download_and_store_once(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str], scope: str
) -> None:
    """Three concurrent tasks of a foreach: one reads the Hub, the others refer to its entry."""

    def task(number: int) -> tuple[dict[str, Any], bool]:
        found: tuple[dict[str, Any], bool] = repo_cache(
            datastore,
            lines.append,
            task=f"Flow/1/start/{number}",
            identifier=f"index{number}" if scope == "checkpoint" else "shared",
            scope=scope,
        ).load(request_for(hub), str(tmp_path / str(number)))
        return found

    with ThreadPoolExecutor(3) as tasks:
        found = list(tasks.map(task, range(3)))

    assert tree(tmp_path / "0") == tree(tmp_path / "1") == tree(tmp_path / "2")
    assert listings(hub) == 1
    assert len({reference["key"] for reference, _ in found}) == 1
    assert sorted(hit for _, hit in found) == [False, True, True]
    assert len(datastore.keys(ARTIFACTS)) == len(FILES)
    hub.clear_requests()
    again, hit = repo_cache(
        datastore,
        lines.append,
        task="Flow/2/start/9",
        identifier="index2" if scope == "checkpoint" else "shared",
        scope=scope,
    ).load(request_for(hub), str(tmp_path / "again"))
    assert hit
    assert again["key"] == found[0][0]["key"]
    assert hub.requests == []


def test_tasks_that_waited_load_at_the_same_time(
    datastore: Datastore, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock is held while a task loads: two of three meet in the middle of their loads."""
    meeting = threading.Barrier(2)
    load = RepoTransfers.load

    def meet(self: Any, request: Any, reference: Any, path: str) -> Any:
        if Path(path).name != "first":
            meeting.wait(60)
        return load(self, request, reference, path)

    monkeypatch.setattr(RepoTransfers, "load", meet)
    waiting = threading.Semaphore(0)

    def log(line: str) -> None:
        if "waiting" in line:
            waiting.release()

    stalled = hub.add_fault(Fault(host="cdn", action=Stall(0), times=None))

    def task(name: str) -> bool:
        cache = repo_cache(datastore, log, task=f"Flow/1/start/{name}", identifier=name)
        return bool(cache.load(request_for(hub), str(tmp_path / name))[1])

    with ThreadPoolExecutor(3) as tasks:
        first = tasks.submit(task, "first")
        assert stalled.wait(60)
        others = [tasks.submit(task, name) for name in ("second", "third")]
        for _ in others:
            assert waiting.acquire(timeout=60)
        hub.clear_faults()
        hub.release()
        assert not first.result()
        assert all(other.result() for other in others)


def test_locks_lie_with_a_local_datastore_and_are_removed(
    datastore: Datastore, hub: HubServer, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that tasks with other temporary folders wait too; no lock file stays anywhere."""
    locks: list[str] = []
    download = RepoTransfers.download

    def watch(self: Any, request: Any, entry: Any, path: Any) -> Any:
        for parent in (datastore.root, tempfile.gettempdir()):
            found = Path(parent).rglob("*.lock") if os.path.isdir(parent) else ()
            locks.extend(str(file) for file in found)
        return download(self, request, entry, path)

    monkeypatch.setattr(RepoTransfers, "download", watch)
    repo_cache(datastore, lines.append).reference(request_for(hub))

    where = datastore.root if datastore.kind == "local" else tempfile.gettempdir()
    assert [Path(lock).is_relative_to(where) for lock in locks] == [True]
    assert not Path(locks[0]).exists()


@pytest.mark.parametrize("scope", ["checkpoint", "flow"])
def test_a_stored_repository_serves_a_part_of_it(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str], scope: str
) -> None:
    """A load with patterns selects from the entry; a reference to a part is a smaller entry."""

    def cache(number: int) -> Any:
        return repo_cache(datastore, lines.append, scope=scope, task=f"Flow/{number}/start/1")

    whole, _ = cache(1).reference(request_for(hub))
    hub.clear_requests()
    part = request_for(hub, allow_patterns=["*.json", "deep/"], ignore_patterns="*.bin")
    for name in ("old.bin", "keep.txt"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text("mine")

    reference, hit = cache(2).load(part, str(tmp_path / "a"))
    smaller, hit_again = cache(3).reference(part)

    assert hub.requests == []
    assert hit
    assert hit_again
    assert reference["key"] == whole["key"] != smaller["key"]
    assert set(tree(tmp_path / "a")) == {"config.json", "deep/vocab.txt", "old.bin", "keep.txt"}
    assert datastore.keys(smaller["key"]) == [
        f"{smaller['key']}/config.json",
        f"{smaller['key']}/deep/vocab.txt",
    ]
    assert cache(4).reference(part)[0]["key"] == smaller["key"]
    other = request_for(hub, allow_patterns="*.json", revision="v2")
    assert not cache(5).load(other, str(tmp_path / "v2"))[1]


def test_a_damaged_repository_does_not_serve_a_part_of_it(
    datastore: Datastore, hub: HubServer, lines: list[str]
) -> None:
    """The reference to a part is downloaded then."""
    whole, _ = repo_cache(datastore, lines.append).reference(request_for(hub))
    datastore.write(f"{whole['key']}/config.json", b'{"revision": "xxxx"}')
    hub.clear_requests()

    part, hit = repo_cache(datastore, lines.append, task="Flow/2/start/1").reference(
        request_for(hub, allow_patterns="*.json")
    )

    assert not hit
    assert listings(hub) == 1
    assert datastore.read(f"{part['key']}/config.json") == b'{"revision": "main"}'


def test_a_full_temporary_disk_does_not_discard_a_stored_entry(
    datastore: Datastore,
    hub: HubServer,
    tmp_path: Path,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The load fails; what the datastore has by then serves the next task."""

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise DiskFullError("no space left to write the file")

    request = request_for(hub, allow_patterns="*.json")
    if datastore.kind == "local":
        monkeypatch.setattr(TransferJobs, "load", fail)
        monkeypatch.setattr(TransferJobs, "clone", lambda *arguments, **keywords: False)
    else:
        monkeypatch.setattr(ReuseSink, "finish", fail)  # when all files are at both places
    with pytest.raises(DiskFullError):
        repo_cache(datastore, lines.append).load(request, str(tmp_path / "a"))
    monkeypatch.undo()
    hub.clear_requests()

    _, hit = repo_cache(datastore, lines.append, task="Flow/2/start/1").load(
        request, str(tmp_path / "b")
    )

    assert hit
    assert hub.requests == []


def test_one_task_may_load_from_several_threads(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """Each call gets the files that it requested."""
    cache = repo_cache(datastore, lines.append)

    def load(revision: str) -> None:
        cache.load(request_for(hub, revision=revision), str(tmp_path / revision))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(load, ("main", "v2")))

    assert config(tmp_path / "main") == "main"
    assert config(tmp_path / "v2") == "v2"


def test_files_that_a_transfer_skipped_are_in_its_manifest(
    datastore: Datastore, hub: HubServer, lines: list[str]
) -> None:
    """Their chunk digests are computed from the stored files, which are verified."""
    import dataclasses

    from hftransfer import FileManifest, Report
    from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess

    cache = repo_cache(datastore, lines.append)
    reference, _ = cache.reference(request_for(hub))
    access = DatastoreAccess(datastore.backend)
    location = access.location(reference["key"])
    whole = access.jobs().load(location, str(Path(tempfile.gettempdir(), "w"))).manifest
    jobs = access.jobs()

    def completed() -> dict[str, FileManifest]:
        async def run(session: Any) -> Report:
            origin = await session.source(location + "/")
            entries = await origin.list()
            partial = dataclasses.replace(whole, files={"config.json": whole.files["config.json"]})
            report = cache_report(partial)
            completed: Report = await session.with_all_files(report, location, entries)
            return completed

        return dict(jobs._run(run).manifest.files)

    chunks = {path: file.chunks for path, file in completed().items()}

    assert chunks == {path: file.chunks for path, file in whole.files.items()}


def cache_report(manifest: Any) -> Any:
    """Return a report with `manifest` and nothing else."""
    from hftransfer import Report

    return Report(source="", destinations=(), manifest=manifest)


def test_links_are_made_if_the_setting_says_so(
    hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """With METAFLOW_HFTRANSFER_LOCAL_LINKS a load makes links, also in place of existing files."""
    datastore = Datastore("local", str(tmp_path / "store"))
    request = request_for(hub)
    repo_cache(datastore, lines.append).load(request, str(tmp_path / "a"))

    for _ in range(2):
        repo_cache(datastore, lines.append, links=True).load(request, str(tmp_path / "a"))

    assert all((tmp_path / "a" / path).is_symlink() for path in FILES)
    assert set(tree(tmp_path / "a")) == set(FILES)


def test_log_lines_are_few_and_complete(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """Two lines for a load: what begins and from where; what came, how long, how verified."""
    repo_cache(datastore, lines.append).load(request_for(hub), str(tmp_path / "a"))
    cold, folder = lines.copy(), tmp_path / "a"
    lines.clear()
    repo_cache(datastore, lines.append, task="Flow/2/start/1").load(request_for(hub), str(folder))

    assert cold[0] == f"Downloading {REPO} from the Hugging Face Hub to {folder} and the datastore"
    assert lines[0] == f"Loading {REPO} from the datastore to {folder}"
    for verb, last in (("Downloaded", cold[1]), ("Loaded", lines[1])):
        assert re.match(rf"{verb} {REPO} at commit [0-9a-f]{{8}} in [0-9.]+ s: 5 files, ", last)
        assert " verified; key: mf.huggingface_hub/checkpoints/artifacts/Flow/start/" in last
    assert len(cold) == len(lines) == 2
    assert not [line for line in cold + lines if "\r" in line or "\n" in line]


def test_a_request_that_moves_nothing_has_one_line(
    datastore: Datastore, hub: HubServer, lines: list[str]
) -> None:
    """Nothing was saved or loaded, and the line does not say so."""
    repo_cache(datastore, print).reference(request_for(hub))
    cache = repo_cache(datastore, lines.append, task="Flow/2/start/1")
    cache.reference(request_for(hub))

    (line,) = lines
    assert re.match(rf"Found {REPO} in the datastore in [0-9.]+ s: 19.1 MiB; key: mf", line)
    assert cache.accesses[0].cache_hit


def test_a_siblings_copy_is_a_hit_and_named_so(
    datastore: Datastore, hub: HubServer, tmp_path: Path, lines: list[str]
) -> None:
    """The second task of a foreach reads the first one's copy: log, result and card say it."""
    first = repo_cache(datastore, print, task="Flow/1/start/1", identifier="one")
    _, first_hit = first.load(request_for(hub), str(tmp_path / "a"))
    hub.clear_requests()
    second = repo_cache(datastore, lines.append, task="Flow/1/start/2", identifier="two")
    _, second_hit = second.load(request_for(hub), str(tmp_path / "b"))

    assert (first_hit, second_hit) == (False, True)
    assert hub.requests == []
    assert lines[0].startswith(f"Loading {REPO} from another task's copy in the datastore to ")
    assert lines[1].startswith(f"Loaded {REPO} at commit ")
    third = repo_cache(datastore, print, task="Flow/1/start/3", identifier="three")
    _, third_hit = third.reference(request_for(hub))
    assert third_hit
    for access in [*second.accesses, *third.accesses]:
        assert (access.state, access.origin, access.cache_hit) == ("done", SIBLING, True)


def test_a_part_that_is_copied_within_the_datastore_is_a_hit_and_named_so(
    datastore: Datastore, hub: HubServer, lines: list[str]
) -> None:
    """The copy of a part of a stored repository is no download and no load."""
    repo_cache(datastore, print).reference(request_for(hub))
    cache = repo_cache(datastore, lines.append, task="Flow/2/start/1")
    cache.reference(request_for(hub, allow_patterns="*.json"))

    assert lines[0] == f"Copying {REPO} from the datastore to the datastore"
    assert re.match(rf"Copied {REPO} at commit [0-9a-f]{{8}} in [0-9.]+ s: 1 file, ", lines[1])
    assert len(lines) == 2
    (access,) = cache.accesses
    assert (access.state, access.origin, access.cache_hit) == ("done", DATASTORE, True)


def test_an_access_says_how_it_failed(
    datastore: Datastore, hub: HubServer, lines: list[str]
) -> None:
    """The card shows the request and its error."""
    cache = repo_cache(datastore, lines.append)
    request = parse_arguments({"repo_id": "no/such", "endpoint": hub.endpoint})

    with pytest.raises(TransferError):
        cache.reference(request)

    (access,) = cache.accesses
    assert access.state == "failed"
    assert "no/such" in access.error


def delete(datastore: Datastore, key: str) -> None:
    if datastore.kind == "local":
        os.remove(Path(datastore.root, key))
    else:
        datastore.backend.delete(key)


BEGIN = """
import json, os, signal, sys
import metaflow
from metaflow_extensions.hftransfer.plugins.engine.load_spec import parse_arguments
from metaflow_extensions.hftransfer.plugins.hub.transfer import RepoTransfers
from support.metaflow_stores import Datastore, repo_cache

def die(self, request, entry, path):
    print(entry.key, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

RepoTransfers.download = die
given = json.loads(sys.argv[1])
cache = repo_cache(Datastore(*given["datastore"]), print, **given["task"])
cache.reference(parse_arguments(given["request"]))
"""


def kill_after_begin(datastore: Datastore, hub: HubServer, **task: Any) -> str:
    """Kill a task that has begun an entry; return the key of that."""
    given = {
        "datastore": [datastore.kind, datastore.root, datastore.parameters],
        "request": {"repo_id": REPO, "endpoint": hub.endpoint},
        "task": task,
    }
    done = subprocess.run(
        [sys.executable, "-c", BEGIN, json.dumps(given)],
        # Metaflow orders extensions by their metadata, which a checkout in the way would hide.
        cwd=tempfile.gettempdir(),
        env={**os.environ, "PYTHONPATH": python_path(), "TMPDIR": tempfile.gettempdir()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.splitlines()[-1]


def store_upstream_entry(
    datastore: Datastore, files: dict[str, bytes], size: int | None = None
) -> dict[str, Any]:
    """Store an entry as metaflow-checkpoint's snapshot_download does: without a record."""
    store = checkpoint_store(datastore, print)
    request = RepoRequest(REPO)
    name = repo_cache(datastore, print).name(request)
    metadata = {"repo_id": REPO, "registry": "huggingface", "repo_type": "model"}
    with store.new_entry(name, Flight("0" * 32)) as entry:
        for path, data in files.items():
            datastore.write(f"{entry.key}/{path}", data)
        total = sum(map(len, files.values())) if size is None else size
        manifest = {"files": {"all": {"size": total}}}
        reference: dict[str, Any] = store.publish(entry, manifest, metadata)
    delete(datastore, entry.key.replace("/artifacts/", "/manifests/") + ".json")
    return reference


def load_once(hub: HubServer, datastore: Datastore, tmp_path: Path, lines: list[str]) -> Path:
    """Load the repository to a new folder, and return that."""
    repo_cache(datastore, lines.append).load(request_for(hub), str(tmp_path / "loaded"))
    return tmp_path / "loaded"
