"""Damaged entries: what is swapped, and what stays as it is when the Hub cannot help.

A Hub on loopback, a local datastore and MinIO; the tasks are objects of this process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from metaflow.exception import MetaflowException

from hftransfer import IntegrityError
from hftransfer.testing import Fault, HubServer, RandomFile, Status
from metaflow_extensions.hftransfer.plugins.engine.load_spec import parse_arguments
from support.files import tree
from support.hub import listings
from support.metaflow_stores import Datastore, repo_cache

pytestmark = [pytest.mark.metaflow, pytest.mark.timeout(120)]

REPO = "acme/model"
TOKEN = "hf_SECRETsecretSECRETsecret"
FILES: dict[str, bytes | RandomFile] = {
    **{f"part-{number:02}.bin": RandomFile(200_000, seed=number) for number in range(12)},
    "deep/config.json": b'{"a": 1}',
}
REPAIRS = "mf.huggingface_hub/checkpoints/repairs"


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is not sent again after an error."""
    monkeypatch.setenv("HFTRANSFER_ATTEMPTS", "1")


@pytest.fixture
def other_hub() -> Iterator[HubServer]:
    """A Hub without the repository: it was deleted."""
    with HubServer() as server:
        yield server


def store_entry(datastore: Datastore, hub: HubServer, **options: Any) -> dict[str, Any]:
    """Create the repository and store it; return the reference."""
    hub.create_repo(REPO, files=FILES, **options)
    return store_existing(datastore, hub, options.get("token"))


def store_existing(datastore: Datastore, hub: HubServer, token: str | None) -> dict[str, Any]:
    """Store the repository of `hub`; return the reference."""
    arguments = {"repo_id": REPO, "endpoint": hub.endpoint, "token": token}
    reference, _ = repo_cache(datastore, print).reference(parse_arguments(arguments))
    hub.clear_requests()
    found: dict[str, Any] = reference
    return found


def damage(datastore: Datastore, key: str, *names: str) -> None:
    """Change two bytes of each file; its size stays."""
    for name in names:
        data = datastore.read(f"{key}/{name}")
        assert data is not None
        datastore.write(f"{key}/{name}", data[:-2] + bytes([data[-2] ^ 1, data[-1] ^ 1]))


def stored(datastore: Datastore) -> dict[str, bytes | None]:
    """Return all that the datastore has, except the records of flights."""
    keys = datastore.keys("mf.huggingface_hub")
    return {key: datastore.read(key) for key in keys if "/leases/" not in key}


def load(datastore: Datastore, hub: HubServer, path: Path) -> None:
    request = parse_arguments({"repo_id": REPO, "endpoint": hub.endpoint})
    repo_cache(datastore, print, task="Flow/2/start/9").load(request, str(path))


def load_model(datastore: Datastore, hub: HubServer, path: Path, key: str) -> None:
    """Load an entry as @model does, with the Hub and the token of the environment."""
    import huggingface_hub.constants

    folder, _, name = key.rpartition("/")
    store = datastore.storage(*folder.split("/")[1:], prefix="mf.huggingface_hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        store._load_objects(name, str(path))


@pytest.mark.parametrize("how", ["load", "model"])
@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("unavailable", "run this again when the Hub can be reached"),
        ("private", "HF_TOKEN"),
        ("gated", "HF_TOKEN"),
        ("deleted", "force_download=True"),
    ],
)
def test_an_entry_that_cannot_be_repaired_stays_as_it_was(
    datastore: Datastore,
    hub: HubServer,
    other_hub: HubServer,
    tmp_path: Path,
    how: str,
    case: str,
    remedy: str,
) -> None:
    """Nothing is deleted; the error names the damaged files and what would mend them."""
    options = {"private": {"private": True}, "gated": {"gated": True}}.get(case, {})
    reference = store_entry(datastore, hub, token=TOKEN if options else None, **options)
    damage(datastore, reference["key"], "part-03.bin", "deep/config.json")
    before = stored(datastore)
    if case == "unavailable":
        hub.add_fault(Fault(action=Status(503), times=None))
    asked = other_hub if case == "deleted" else hub

    with pytest.raises(IntegrityError) as caught:
        if how == "load":
            load(datastore, asked, tmp_path / "a")
        else:
            load_model(datastore, asked, tmp_path / "a", reference["key"])

    assert stored(datastore) == before
    assert isinstance(caught.value, MetaflowException)
    message = str(caught.value)
    assert "part-03.bin" in message
    assert "deep/config.json" in message
    assert "part-04.bin" not in message
    assert remedy in message


def test_no_file_is_swapped_before_all_are_fetched(
    datastore: Datastore, hub: HubServer, tmp_path: Path
) -> None:
    """The Hub fails for one of two damaged files: both stay as they were."""
    reference = store_entry(datastore, hub)
    damage(datastore, reference["key"], "part-03.bin", "part-05.bin")
    before = stored(datastore)
    hub.add_fault(Fault(action=Status(500), host="cdn", path="*/part-05.bin", times=None))

    with pytest.raises(IntegrityError, match=r"part-03\.bin.*part-05\.bin"):
        load(datastore, hub, tmp_path / "a")

    assert stored(datastore) == before


def test_only_the_damaged_files_are_fetched_and_swapped(
    datastore: Datastore, hub: HubServer, tmp_path: Path
) -> None:
    """One of thirteen files; the others are neither fetched nor written, and all is as before."""
    reference = store_entry(datastore, hub)
    before = stored(datastore)
    damage(datastore, reference["key"], "part-03.bin")
    others = identities(datastore, reference["key"])

    load(datastore, hub, tmp_path / "a")

    assert stored(datastore) == before
    fetched = [request.path for request in hub.requests if request.host == "cdn"]
    assert len(fetched) == 1
    del others["part-03.bin"]
    after = identities(datastore, reference["key"])
    assert {name: after[name] for name in others} == others
    assert set(tree(tmp_path / "a")) == set(FILES)


def test_the_recorded_commit_is_fetched(
    datastore: Datastore, hub: HubServer, tmp_path: Path
) -> None:
    """The branch has moved since: the entry keeps the content that its manifest names."""
    repo = hub.create_repo(REPO, files=FILES)
    reference = store_existing(datastore, hub, None)
    before = stored(datastore)
    damage(datastore, reference["key"], "deep/config.json")
    repo.commit({"deep/config.json": b'{"a": 2}'})

    load(datastore, hub, tmp_path / "a")

    assert stored(datastore) == before


@pytest.mark.parametrize("how", ["load", "model"])
def test_concurrent_tasks_repair_once(
    datastore: Datastore, hub: HubServer, tmp_path: Path, how: str
) -> None:
    """Four tasks find the damage at the same time; the Hub sends the damaged file once."""
    reference = store_entry(datastore, hub)
    damage(datastore, reference["key"], "part-03.bin")
    start = threading.Barrier(4)

    def task(number: int) -> None:
        start.wait()
        if how == "load":
            load(datastore, hub, tmp_path / str(number))
        else:
            access_model(datastore, reference["key"], tmp_path / str(number))

    with pytest.MonkeyPatch.context() as patch:
        access_model = model_loader(hub, patch)
        with ThreadPoolExecutor(4) as tasks:
            list(tasks.map(task, range(4)))

    for number in range(4):
        assert tree(tmp_path / str(number)) == tree(tmp_path / "0")
    assert set(tree(tmp_path / "0")) == set(FILES)
    assert len([request for request in hub.requests if request.host == "cdn"]) == 1
    assert listings(hub) == 1
    assert datastore.keys(REPAIRS) == []


def model_loader(
    hub: HubServer, patch: pytest.MonkeyPatch
) -> Callable[[Datastore, str, Path], None]:
    """Return a function that loads an entry as @model does, for several threads."""
    import huggingface_hub.constants

    patch.setenv("HF_ENDPOINT", hub.endpoint)
    patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)

    def load_one(datastore: Datastore, key: str, path: Path) -> None:
        folder, _, name = key.rpartition("/")
        store = datastore.storage(*folder.split("/")[1:], prefix="mf.huggingface_hub")
        store._load_objects(name, str(path))

    return load_one


def identities(datastore: Datastore, key: str) -> dict[str, Any]:
    """Return what changes when a file is written again: inode and time, or the time of S3."""
    if datastore.kind == "local":
        folder = Path(datastore.root, key)
        files = [file for file in folder.rglob("*") if file.is_file()]
        return {
            file.relative_to(folder).as_posix(): (os.stat(file).st_ino, os.stat(file).st_mtime_ns)
            for file in files
        }
    backend = datastore.backend
    bucket, prefix = backend._location(key)
    pages = backend._client().client.list_objects_v2(Bucket=bucket, Prefix=prefix + "/")
    return {
        item["Key"].removeprefix(prefix + "/"): item["LastModified"] for item in pages["Contents"]
    }
