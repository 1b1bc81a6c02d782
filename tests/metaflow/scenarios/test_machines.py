"""Tasks on different machines: one downloads, and a retry finishes what another machine began.

A machine is a process with a host name, a home and a temporary folder of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

import anyio.to_thread
from aiohttp import web
from anyio.from_thread import start_blocking_portal

from hftransfer.testing import Fault, HubServer, RandomFile, Stall
from hftransfer.testing.s3 import S3Server
from support.files import tree
from support.hub import listings
from support.metaflow_stores import Datastore, python_path
from support.s3 import Bucket
from support.s3_proxy import proxy_for

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(180)]

REPO = "acme/model"
FILES: dict[str, bytes | RandomFile] = {
    "config.json": b"{}",
    "model.safetensors": RandomFile(20_000_000, seed=7),
}
LOAD = """
import json, sys
import metaflow
from hftransfer._io import process_identity
from metaflow_extensions.hftransfer.plugins.hub import lease
from metaflow_extensions.hftransfer.plugins.engine.load_spec import parse_arguments
from support.metaflow_stores import Datastore, repo_cache

given = json.loads(sys.argv[1])
process_identity._host = lambda: given["host"]
lease.EXPIRY, lease.RENEWAL_INTERVAL = given["expiry"], 0.1
cache = repo_cache(
    Datastore(*given["datastore"]), lambda line: print(line, flush=True), **given["task"]
)
reference, hit = cache.load(parse_arguments(given["request"]), given["path"])
print("DONE " + json.dumps([reference["key"], hit]), flush=True)
"""


@pytest.fixture
def shared(datastore: Datastore) -> Datastore:
    """A datastore that machines share."""
    if datastore.kind != "s3":
        pytest.skip("a local datastore is of one machine")
    return datastore


@contextmanager
def machine(folder: Path, program: str, given: Any, **environ: str) -> Iterator[Any]:
    """Run `program` with a home and a temporary folder of its own."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": python_path(),
        **environ,
    }
    with subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(given)],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: Any, text: str) -> str:
    """Read the process's output up to the line with `text`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def load_arguments(
    hub: HubServer,
    store: Datastore,
    path: Path,
    *,
    expiry: float = 1e9,
    request: dict[str, Any] | None = None,
    host: str | None = None,
    **task: Any,
) -> dict[str, Any]:
    return {
        "datastore": [store.kind, store.root, store.parameters],
        "request": {"repo_id": REPO, "endpoint": hub.endpoint, **(request or {})},
        "path": str(path),
        "expiry": expiry,
        "host": host or path.parent.name,
        "task": task,
    }


@pytest.fixture
def stalled(hub: HubServer) -> Any:
    """The Hub sends no body of the large file; returns the handle of that fault."""
    hub.create_repo(REPO, files=FILES)
    return hub.add_fault(Fault(action=Stall(0), host="cdn", path="*/model.safetensors", times=None))


@pytest.mark.parametrize("scope", ["checkpoint", "flow", "gang"])
def test_tasks_of_three_machines_download_once(
    shared: Datastore, hub: HubServer, stalled: Any, tmp_path: Path, scope: str
) -> None:
    """One reads the Hub, the others its entry: tasks of a foreach, of a flow, of @parallel.

    The nodes of @parallel write the same keys, so two of them never write at the same time.
    """
    folders = [tmp_path / str(number) for number in range(3)]

    def given(number: int) -> dict[str, Any]:
        return load_arguments(
            hub,
            shared,
            folders[number] / "model",
            task="Flow/1/start/1" if scope == "gang" else f"Flow/1/start/{number}",
            owner=f"Flow/1/start/node-{number}",
            scope="checkpoint" if scope == "gang" else scope,
            identifier=f"index{number}" if scope == "checkpoint" else "shared",
            exclusive=scope != "gang",
        )

    with ExitStack() as stack:
        first = stack.enter_context(machine(folders[0], LOAD, given(0)))
        assert stalled.wait(60)
        others = [stack.enter_context(machine(folders[n], LOAD, given(n))) for n in (1, 2)]
        for other in others:
            read_until(other, f"A task on another machine is downloading {REPO}; waiting")
        hub.clear_faults()
        hub.release()
        outputs = [read_until(process, "DONE") for process in (first, *others)]

    assert listings(hub) == 1
    for folder in folders:
        assert tree(folder / "model") == tree(folders[0] / "model")
        assert set(tree(folder / "model")) == set(FILES)
    keys = {json.loads(output.partition("DONE ")[2])[0] for output in outputs}
    assert len(keys) == 1


@pytest.mark.parametrize("who", ["another task", "a task of its machine", "its own retry"])
def test_the_lease_of_a_dead_holder_is_taken_over(
    shared: Datastore, hub: HubServer, stalled: Any, tmp_path: Path, who: str
) -> None:
    """By another machine when the holder stops renewing it, by its own machine or retry at once."""
    retry = who == "its own retry"
    at_once = who != "another task"
    first = load_arguments(
        hub, shared, tmp_path / "a" / "model", scope="flow", task="Flow/1/start/1"
    )
    second = load_arguments(
        hub,
        shared,
        tmp_path / "b" / "model",
        expiry=1e9 if at_once else 1.0,
        host="a" if who == "a task of its machine" else "b",
        scope="flow",
        task="Flow/1/start/1" if retry else "Flow/1/start/2",
        attempt=1 if retry else 0,
    )

    with machine(tmp_path / "a", LOAD, first) as killed:
        assert stalled.wait(60)
        killed.kill()
    hub.clear_faults()
    hub.release()
    with machine(tmp_path / "b", LOAD, second) as process:
        output = read_until(process, "DONE")

    assert ("A task on another machine is downloading" in output) is not at_once
    assert set(tree(tmp_path / "b" / "model")) == set(FILES)


def test_a_failed_holder_releases_its_lease(
    shared: Datastore, hub: HubServer, tmp_path: Path
) -> None:
    """After a failed download the next task does not wait."""
    hub.create_repo(REPO, files=FILES)
    wrong = load_arguments(
        hub, shared, tmp_path / "a", scope="flow", request={"allow_patterns": "*.none"}
    )
    right = {**wrong, "path": str(tmp_path / "b" / "model")}

    with machine(tmp_path / "a", LOAD, wrong) as process:
        read_until(process, "No file of acme/model is selected")
    right["task"] = {"scope": "flow", "task": "Flow/2/start/9"}
    with machine(tmp_path / "b", LOAD, right) as process:
        output = read_until(process, "No file of acme/model is selected")

    assert "waiting" not in output


# --- unfinished uploads of killed processes


SAVE = """
import json, sys
import metaflow
from support.metaflow_stores import Datastore
given = json.loads(sys.argv[1])
store = Datastore(*given["datastore"]).storage(
    "checkpoints", "artifacts", "Flow", "start", "scope", "single", prefix="mf.checkpoints"
)
getattr(store, "_save_" + given["form"])(given["key"], given["folder"])
print("DONE", flush=True)
"""
SMALL_CHUNKS = {
    "HFTRANSFER_CHUNK_SIZE": "5MiB",
    "HFTRANSFER_CONNECTIONS": "1",
    "HFTRANSFER_MEMORY_BUDGET": "10MiB",
}


class PartGate:
    """A hook of a proxy that forwards the first `limit` parts, or all, and blocks the others."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.sent: list[str] = []
        self.blocked = threading.Event()
        self.released = threading.Event()

    async def hook(self, request: web.Request) -> web.StreamResponse | None:
        number = request.query.get("partNumber")
        if request.method != "PUT" or number is None:
            return None
        await request.read()
        if self.limit is not None and len(self.sent) >= self.limit:
            self.blocked.set()
            await anyio.to_thread.run_sync(self.released.wait)
            return web.Response(status=500)
        self.sent.append(number)
        return None


@contextmanager
def behind_proxy(minio: S3Server, store: Datastore, gate: PartGate) -> Iterator[Datastore]:
    """Yield the datastore, reached through a proxy with the hook of `gate`."""
    bucket = Bucket(minio, store.root.removeprefix("s3://").partition("/")[0])
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(proxy_for(bucket, gate.hook)) as endpoint,
    ):
        try:
            yield Datastore("s3", store.root, {**store.parameters, "endpoint_url": endpoint})
        finally:
            gate.released.set()


def uploads(store: Datastore, *keys: str) -> list[Any]:
    """Return the unfinished uploads of these objects."""
    return [found for key in keys for found in store.backend.list_uploads(key)]


def test_a_retry_on_another_machine_resumes_the_upload(
    shared: Datastore, minio: S3Server, hub: HubServer, tmp_path: Path
) -> None:
    """After kill -9 in the middle of an upload the stored parts are not sent again.

    The second machine has another home and temporary folder, without files of the first.
    """
    hub.create_repo(REPO, files={"model.safetensors": RandomFile(40_000_000, seed=7)})
    first, rest = PartGate(limit=4), PartGate(limit=None)
    with behind_proxy(minio, shared, first) as store:
        given = load_arguments(hub, store, tmp_path / "a" / "model", task="Flow/1/start/1")
        with machine(tmp_path / "a", LOAD, given, **SMALL_CHUNKS) as process:
            assert first.blocked.wait(60)
            process.kill()
    with behind_proxy(minio, shared, rest) as store:
        given = load_arguments(
            hub, store, tmp_path / "b" / "model", task="Flow/1/start/1", attempt=1
        )
        with machine(tmp_path / "b", LOAD, given, **SMALL_CHUNKS) as process:
            output = read_until(process, "DONE")

    key, _ = json.loads(output.partition("DONE ")[2])
    assert sorted(first.sent + rest.sent, key=int) == [str(number) for number in range(1, 9)]
    stored = shared.read(f"{key}/model.safetensors")
    assert stored == tree(tmp_path / "b" / "model")["model.safetensors"]
    assert uploads(shared, f"{key}/model.safetensors") == []
    assert len(shared.keys("mf.huggingface_hub/checkpoints/artifacts")) == 1


def make_checkpoint(tmp_path: Path) -> str:
    """Make a folder with a file of several parts and a small file; return its path."""
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(40_000_000))
    (folder / "config.json").write_text("{}")
    return str(folder)


def kill_in_the_middle(
    minio: S3Server, shared: Datastore, home: Path, program: str, given: dict[str, Any]
) -> None:
    """Run `program` on another machine, and kill it when some parts are stored."""
    gate = PartGate(limit=4)
    with behind_proxy(minio, shared, gate) as store:
        where = [store.kind, store.root, store.parameters]
        with machine(home, program, {**given, "datastore": where}, **SMALL_CHUNKS) as process:
            assert gate.blocked.wait(60)
            process.kill()


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_the_retry_of_a_save_removes_what_the_killed_attempt_stored(
    shared: Datastore, minio: S3Server, tmp_path: Path, form: str
) -> None:
    """Each attempt of @checkpoint has its own keys; files and parts of a killed one are removed."""
    prefix = "mf.checkpoints/checkpoints/artifacts/Flow/start/scope/single"
    given = {"form": form, "folder": make_checkpoint(tmp_path)}
    left = f"{prefix}/0a1b2c3d.0.my.name.0" + ("" if form == "tarball" else "/weights.bin")
    killed = {**given, "key": "0a1b2c3d.0.my.name.0"}
    kill_in_the_middle(minio, shared, tmp_path / "a", SAVE, killed)
    assert len(uploads(shared, left)) == 1
    # A finished checkpoint of that attempt stays.
    shared.write(f"{prefix}/0a1b2c3d.0.whole.1/a", b"a")
    shared.write(
        f"{prefix.replace('artifacts', 'artifact_metadata')}/0a1b2c3d.0.whole.1.metadata", b"{}"
    )

    where = [shared.kind, shared.root, shared.parameters]
    retried = {**given, "datastore": where, "key": "0a1b2c3d.1.my.name.0"}
    with machine(tmp_path / "b", SAVE, retried, **SMALL_CHUNKS) as process:
        output = read_until(process, "DONE")

    assert uploads(shared, left) == []
    assert "Removed the unfinished upload of an earlier attempt of this task" in output
    names = {key.removeprefix(prefix + "/").partition("/")[0] for key in shared.keys(prefix)}
    assert names == {"0a1b2c3d.0.whole.1", "0a1b2c3d.1.my.name.0"}


MODEL = """
import json, sys
import metaflow
from metaflow_extensions.hftransfer.plugins.engine import unfinished_saves
from support.metaflow_stores import Datastore
given = json.loads(sys.argv[1])
datastore = Datastore(*given["datastore"])
attempt = given["attempt"]
unfinished_saves.enter_and_clean(
    datastore.backend, "Flow/1/start/1", attempt, may_retry=attempt == 0
)
store = datastore.storage("models", "artifacts", prefix="mf.models")
getattr(store, "_save_" + given["form"])(given["key"], given["folder"])
print("DONE", flush=True)
"""


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_a_retry_removes_unfinished_models(
    shared: Datastore, minio: S3Server, tmp_path: Path, form: str
) -> None:
    """Each save of a model has a new key; the retry finds the unfinished one, and others stay."""
    given: dict[str, Any] = {"form": form, "folder": make_checkpoint(tmp_path)}
    left = "mf.models/models/artifacts/label_1" + ("" if form == "tarball" else "/weights.bin")
    killed = {**given, "key": "label_1", "attempt": 0}
    kill_in_the_middle(minio, shared, tmp_path / "a", MODEL, killed)
    assert len(uploads(shared, left)) == 1
    shared.write("mf.models/models/artifacts/label_0/a", b"a")

    where = [shared.kind, shared.root, shared.parameters]
    retried = {**given, "datastore": where, "key": "label_2", "attempt": 1}
    with machine(tmp_path / "b", MODEL, retried, **SMALL_CHUNKS) as process:
        output = read_until(process, "DONE")

    assert uploads(shared, left) == []
    removed = "Removed the unfinished upload of an earlier attempt of this task: "
    assert f"{removed}mf.models/models/artifacts/l" in output
    prefix = "mf.models/models/artifacts"
    names = {key.removeprefix(prefix + "/").partition("/")[0] for key in shared.keys(prefix)}
    assert names == {"label_0", "label_2"}
    assert shared.keys("mf.models/models/unfinished") == []
