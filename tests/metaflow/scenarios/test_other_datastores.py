"""Datastores that the engine does not support, such as gs and azure."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from hftransfer.testing import HubServer, RandomFile
from metaflow_extensions.hftransfer.plugins.engine.load_spec import parse_arguments
from support.files import tree
from support.metaflow_stores import Datastore, repo_cache

pytestmark = [pytest.mark.metaflow, pytest.mark.timeout(120)]

FILES: dict[str, bytes | RandomFile] = {
    "config.json": b"{}",
    "deep/model.bin": RandomFile(3_000_000, seed=1),
}


class UnsupportedDatastore(Datastore):
    """A datastore of another type, which stores its files in a local folder."""

    @property
    def backend(self) -> Any:
        from metaflow.plugins.datastores.local_storage import LocalStorage

        from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
            storage_injections as theirs,
        )

        class OtherStorage(LocalStorage):  # type: ignore[misc,unused-ignore]
            TYPE = self.kind

        made = OtherStorage(self.root)
        for name, table in (
            ("save_file", theirs.STORAGE_INJECTIONS_SINGLE_FILE_SAVE),
            ("save_files", theirs.STORAGE_INJECTIONS_MULTIPLE_FILE_SAVE),
            ("delete_prefix", theirs.STORAGE_INJECTIONS_DELETE_PREFIX),
        ):
            setattr(made, name, functools.partial(table["local"], made))
        # A copy, because the caller moves the file.
        made.load_files = functools.partial(_copies, made)
        return made


def _copies(backend: Any, keys: list[str]) -> Any:
    import shutil

    from metaflow.datastore.datastore_storage import CloseAfterUse

    folder = tempfile.mkdtemp()
    results = []
    for number, key in enumerate(keys):
        path = Path(folder, str(number))
        shutil.copy(backend.full_uri(key), path)
        results.append((key, str(path), None))
    return CloseAfterUse(iter(results))


@pytest.fixture(params=["gs", "azure"])
def unsupported(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> UnsupportedDatastore:
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
        task_utils,
    )

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    made = UnsupportedDatastore(request.param, str(tmp_path / "store"))
    monkeypatch.setattr(task_utils.datastore_context, "get", lambda: made.backend)
    return made


def test_repositories_are_stored_and_loaded(
    unsupported: UnsupportedDatastore,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a miss the engine reads the Hub; metaflow-checkpoint's code stores and loads.

    One line of the log says why, however many loads there are.
    """
    monkeypatch.delenv("_HFTRANSFER_LOGGED", raising=False)
    hub.create_repo("acme/model", files=FILES)
    request = parse_arguments({"repo_id": "acme/model", "endpoint": hub.endpoint})
    lines: list[str] = []

    _, hit = repo_cache(unsupported, lines.append).load(request, str(tmp_path / "a"))
    hub.clear_requests()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    reference, again = repo_cache(unsupported, lines.append).load(request, str(tmp_path / "b"))

    assert (hit, again) == (False, True)
    assert hub.requests == []
    assert tree(tmp_path / "b") == {**tree(tmp_path / "a"), "notes.txt": b"mine"}
    assert set(tree(tmp_path / "a")) == set(FILES)
    assert len(unsupported.keys(reference["key"])) == len(FILES)
    assert capsys.readouterr().err.count(f"unsupported datastore: {unsupported.kind}") == 1


def test_a_damaged_copy_is_downloaded_again(
    unsupported: UnsupportedDatastore, hub: HubServer, tmp_path: Path
) -> None:
    """The Hub's digests are verified after metaflow-checkpoint's code has loaded the files."""
    hub.create_repo("acme/model", files=FILES)
    request = parse_arguments({"repo_id": "acme/model", "endpoint": hub.endpoint})
    lines: list[str] = []
    reference, _ = repo_cache(unsupported, lines.append).reference(request)
    key = f"{reference['key']}/deep/model.bin"
    data = unsupported.read(key)
    assert data is not None
    unsupported.write(key, b"?" + data[1:])

    cache = repo_cache(unsupported, lines.append, task="Flow/2/start/1")
    cache.load(request, str(tmp_path / "a"))

    assert tree(tmp_path / "a")["deep/model.bin"] == data
    assert [line for line in lines if "is damaged" in line]


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_checkpoints_and_models_are_left_to_upstream(
    unsupported: UnsupportedDatastore, tmp_path: Path, form: str
) -> None:
    """metaflow-checkpoint's own methods save and load both formats."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "a.txt").write_text("a")
    store = unsupported.storage()

    getattr(store, f"_save_{form}")("one", str(tmp_path / "saved"))
    getattr(store, f"_load_{form}")("one", str(tmp_path / "loaded"))

    assert tree(tmp_path / "loaded") == {"a.txt": b"a"}


def test_metaflows_own_classes_are_unsupported() -> None:
    """The engine refuses the real storage classes of gs and azure."""
    from metaflow.plugins import DATASTORES

    from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
    from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine

    kinds = {storage.TYPE: storage for storage in DATASTORES}
    for kind in ("gs", "azure"):
        backend = object.__new__(kinds[kind])
        access = DatastoreAccess(backend)
        assert not access.is_s3
        assert not access.is_local
        assert access.documents is None
        with pytest.raises(UnsupportedByEngine, match=f"unsupported datastore: {kind}"):
            access.jobs()
