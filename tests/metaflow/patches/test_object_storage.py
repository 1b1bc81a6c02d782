"""Checkpoints and models saved and loaded by metaflow-checkpoint's classes with the engine.

Each test runs on a local datastore and on MinIO, without a flow.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hftransfer import IntegrityError
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore.core import (
    ObjectStorage,
)
from support.files import tree
from support.metaflow_stores import TESTS, Datastore, python_path

pytestmark = [pytest.mark.metaflow, pytest.mark.timeout(120)]

MANIFEST = "mf.models/models/manifests/{}.json"


def original(name: str) -> Any:
    """Return metaflow-checkpoint's own method."""
    return inspect.unwrap(getattr(ObjectStorage, name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder such as a training step saves."""
    made = tmp_path / "checkpoint"
    (made / "deep" / "er").mkdir(parents=True)
    (made / "weights.bin").write_bytes(os.urandom(9_000_000))
    (made / "deep" / "config.json").write_text("{}")
    (made / "deep" / "er" / "empty").write_bytes(b"")
    (made / "name with # and ü").write_text("odd")
    return made


@pytest.mark.parametrize("form", ["objects", "tarball"])
@pytest.mark.parametrize("saved_by", ["ours", "theirs"])
@pytest.mark.parametrize("loaded_by", ["ours", "theirs"])
def test_each_side_loads_what_the_other_saved(
    datastore: Datastore, folder: Path, tmp_path: Path, form: str, saved_by: str, loaded_by: str
) -> None:
    """In both storage formats, on both datastores, the loaded files equal the saved ones."""
    store = datastore.storage()
    save, load = f"_save_{form}", f"_load_{form}"
    save_with = original(save) if saved_by == "theirs" else getattr(ObjectStorage, save)
    load_with = original(load) if loaded_by == "theirs" else getattr(ObjectStorage, load)

    url, key, size = save_with(store, "one", str(folder))
    load_with(store, "one", str(tmp_path / "loaded"))

    assert key == "mf.models/models/artifacts/one"
    assert url == f"{datastore.root}/{key}"
    total = sum(len(data) for data in tree(folder).values())
    assert size == total if form == "objects" else size >= total
    assert tree(tmp_path / "loaded") == tree(folder)
    assert (datastore.read(MANIFEST.format("one")) is not None) == (saved_by == "ours")


def test_an_environment_without_hftransfer_loads_what_was_saved(
    datastore: Datastore, folder: Path, tmp_path: Path, upstream_python: str
) -> None:
    """Both formats can be loaded there, and here what is saved there."""
    program = """
import json, sys, metaflow
from support.metaflow_stores import Datastore
datastore = Datastore(*json.loads(sys.argv[1]))
assert type(datastore.backend).__module__.find("hftransfer") < 0
# A new one for every call: metaflow-checkpoint's class changes its own parameters.
for form in ("objects", "tarball"):
    getattr(datastore.storage(), f"_load_{form}")("ours-" + form, sys.argv[3] + "/ours-" + form)
    getattr(datastore.storage(), f"_save_{form}")("theirs-" + form, sys.argv[2])
"""
    where = [datastore.kind, datastore.root, datastore.parameters]
    store = datastore.storage()
    for form in ("objects", "tarball"):
        getattr(store, f"_save_{form}")("ours-" + form, str(folder))

    subprocess.run(
        [upstream_python, "-c", program, json.dumps(where), str(folder), str(tmp_path / "loaded")],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        check=True,
    )
    for form in ("objects", "tarball"):
        getattr(store, f"_load_{form}")("theirs-" + form, str(tmp_path / f"loaded/theirs-{form}"))

    for who in ("ours", "theirs"):
        for form in ("objects", "tarball"):
            assert tree(tmp_path / f"loaded/{who}-{form}") == tree(folder)


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_a_single_file_keeps_its_name(datastore: Datastore, tmp_path: Path, form: str) -> None:
    """A file is stored below the key, or in the archive, under its own name."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    store = datastore.storage()

    getattr(store, f"_save_{form}")("one", str(tmp_path / "model.pt"))
    getattr(store, f"_load_{form}")("one", str(tmp_path / "loaded"))

    assert tree(tmp_path / "loaded") == {"model.pt": b"weights"}


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_a_changed_byte_is_an_error(
    datastore: Datastore, folder: Path, tmp_path: Path, form: str
) -> None:
    """Every chunk is verified while it is read, and an existing file stays."""
    store = datastore.storage()
    _, key, _ = getattr(store, f"_save_{form}")("one", str(folder))
    damaged = key if form == "tarball" else f"{key}/weights.bin"
    data = datastore.read(damaged)
    assert data is not None
    datastore.write(damaged, data[:5_000_000] + bytes([data[5_000_000] ^ 1]) + data[5_000_001:])
    target = tmp_path / "loaded"
    target.mkdir()
    (target / "weights.bin").write_text("older")

    with pytest.raises(IntegrityError):
        getattr(store, f"_load_{form}")("one", str(target))

    assert (target / "weights.bin").read_text() == "older"


def test_a_missing_or_truncated_object_is_an_error(
    datastore: Datastore, folder: Path, tmp_path: Path
) -> None:
    """All files of the manifest must exist with their size."""
    store = datastore.storage()
    _, key, _ = store._save_objects("one", str(folder))
    datastore.write(f"{key}/deep/config.json", b"")

    with pytest.raises(IntegrityError, match="'deep/config.json': expected 2 bytes, found 0"):
        store._load_objects("one", str(tmp_path / "loaded"))

    ObjectStorage.delete_prefix(store, "one/deep/config.json")
    with pytest.raises(IntegrityError, match="1 of 4 files are missing"):
        store._load_objects("one", str(tmp_path / "loaded"))


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_a_missing_key_raises_metaflow_checkpoints_error(
    datastore: Datastore, tmp_path: Path, form: str
) -> None:
    """Its callers handle `KeyNotFoundError`."""
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.exceptions import (
        KeyNotFoundError,
    )

    with pytest.raises(KeyNotFoundError):
        getattr(datastore.storage(), f"_load_{form}")("none", str(tmp_path / "loaded"))


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_saving_what_is_missing_fails(datastore: Datastore, tmp_path: Path, form: str) -> None:
    """A missing path is an error in both formats, and nothing is stored."""
    with pytest.raises(FileNotFoundError):
        getattr(datastore.storage(), f"_save_{form}")("one", str(tmp_path / "missing"))

    assert datastore.keys("mf.models") == []


def test_loads_are_copies_and_leave_other_files_alone(
    datastore: Datastore, folder: Path, tmp_path: Path
) -> None:
    """An edit of a loaded file does not reach the datastore, and a second load restores it."""
    store = datastore.storage()
    store._save_objects("one", str(folder))
    target = tmp_path / "loaded"
    target.mkdir()
    (target / "notes.txt").write_text("mine")

    store._load_objects("one", str(target))
    (target / "deep" / "config.json").write_text("edited")
    store._load_objects("one", str(target))

    assert not [path for path in target.rglob("*") if path.is_symlink()]
    assert tree(target) == {**tree(folder), "notes.txt": b"mine"}


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_no_temporary_copy_is_made(
    datastore: Datastore,
    folder: Path,
    tmp_path: Path,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No file with the data of a checkpoint is made below the temporary folder."""
    import tempfile

    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    store = datastore.storage()
    made: set[str] = set()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching or event != "open" or not str(arguments[0]).startswith(str(temporary)):
            return
        if arguments[2] & os.O_CREAT and not os.path.isdir(arguments[0]):
            made.add(arguments[0])

    watching = True
    sys.addaudithook(watch)
    getattr(store, f"_save_{form}")("one", str(folder))
    getattr(store, f"_load_{form}")("one", str(tmp_path / "loaded"))
    watching = False

    assert tree(temporary) == {}
    # On S3 the manifest alone is read through a temporary file.
    assert len(made) <= 1


def test_an_archive_cannot_leave_its_folder(datastore: Datastore, tmp_path: Path) -> None:
    """Members with absolute names, `..`, or links to elsewhere are refused."""
    outside = tmp_path / "outside.txt"
    for name, kind, link in (
        ("../outside.txt", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, str(tmp_path)),
    ):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member, io.BytesIO())
        datastore.write("mf.models/models/artifacts/evil", data.getvalue())

        with pytest.raises(IntegrityError, match="refused to unpack"):
            datastore.storage()._load_tarball("evil", str(tmp_path / "loaded"))

    assert not outside.exists()
    assert list((tmp_path / "loaded").iterdir()) == []


def test_a_cut_archive_is_an_error(datastore: Datastore, folder: Path, tmp_path: Path) -> None:
    """An archive that ends too early is an error, also without a manifest."""
    store = datastore.storage()
    _, key, _ = original("_save_tarball")(store, "one", str(folder))
    data = datastore.read(key)
    assert data is not None
    datastore.write(key, data[:5_000_000])

    with pytest.raises(IntegrityError, match="not a complete tar archive"):
        store._load_tarball("one", str(tmp_path / "loaded"))

    assert list((tmp_path / "loaded").iterdir()) == []


names = st.text("ab.é", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map(tuple), st.binary(max_size=2000), max_size=6
)


@given(files=trees, chunk=st.integers(1, 5000))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_archive_equals_that_of_tarfile(
    files: dict[tuple[str, ...], bytes], chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Read in pieces of any size, its bytes are those that tarfile writes."""
    from metaflow_extensions.hftransfer.plugins.engine.tar import TarSource

    folder = tmp_path_factory.mktemp("tree")
    for path, data in files.items():
        try:
            (folder / Path(*path)).parent.mkdir(parents=True, exist_ok=True)
            (folder / Path(*path)).write_bytes(data)
        except OSError:
            continue  # a file of that name is in the way
    source = TarSource(str(folder), "one.tar")
    made = bytearray(source.size)
    for start in range(0, source.size, chunk):
        source._read_into(start, memoryview(made)[start : start + chunk])

    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w") as archive:
        for item in sorted(os.listdir(folder)):
            archive.add(folder / item, arcname=item)
    assert bytes(made) == expected.getvalue()


def test_names_that_the_engine_refuses_are_left_to_upstream(
    datastore: Datastore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file with a backslash in its name, which the engine refuses, is saved and loaded."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "back\\slash").write_text("x")
    store = datastore.storage()

    store._save_objects("one", str(tmp_path / "saved"))
    store._load_objects("one", str(tmp_path / "loaded"))

    assert tree(tmp_path / "loaded") == {"back\\slash": b"x"}
    assert "Using the slower transfers of Metaflow's own code" in capsys.readouterr().err


def test_missing_packages_are_logged_once(tmp_path: Path) -> None:
    """Without the engine's packages saves and loads work, and one line names the packages."""
    program = """
import sys
for name in ("aiohttp", "anyio", "xxhash", "aiobotocore"):
    sys.modules[name] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: (
    None if name in ("aiohttp", "anyio", "xxhash", "aiobotocore") else find(name, *a))
import metaflow
from support.metaflow_stores import Datastore
store = Datastore("local", sys.argv[1]).storage()
for form in ("objects", "tarball"):
    getattr(store, f"_save_{form}")(form, sys.argv[2])
    getattr(store, f"_load_{form}")(form, sys.argv[3] + form)
"""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "a.txt").write_text("a")
    paths = [str(tmp_path / name) for name in ("store", "saved", "loaded")]

    found = subprocess.run(
        [sys.executable, "-c", program, *paths],
        env={**os.environ, "PYTHONPATH": python_path()},
        # In a checkout from which a wheel was built, Metaflow would find the extension twice.
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert found.returncode == 0, found.stderr
    assert found.stderr.count("missing packages: aiohttp, anyio, xxhash") == 1
    assert 'pip install "hftransfer[metaflow]"' in found.stderr
    for form in ("objects", "tarball"):
        assert tree(tmp_path / f"loaded{form}") == {"a.txt": b"a"}


def test_a_long_transfer_logs_its_progress(
    datastore: Datastore,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whole lines at the configured interval, for saves and loads, in both formats."""
    from metaflow import metaflow_config

    monkeypatch.setattr(metaflow_config, "HFTRANSFER_PROGRESS_INTERVAL", 0)
    store = datastore.storage()
    for form in ("objects", "tarball"):
        for save_or_load, place in (("save", folder), ("load", tmp_path / form)):
            getattr(store, f"_{save_or_load}_{form}")(f"0af3.0.{form}.0", str(place))
            lines = capsys.readouterr().err.splitlines()

            sizes = "8.6 MiB of 8.6 MiB (100%), "
            assert lines[-1].startswith(f"[hftransfer] checkpoint {form}: {sizes}")


@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_the_bandwidth_cap_holds_for_the_datastore(
    datastore: Datastore,
    folder: Path,
    tmp_path: Path,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every byte to and from S3 counts for HFTRANSFER_BANDWIDTH; the local disk has no cap."""
    from hftransfer._io.rate_limit import RateLimiter

    monkeypatch.setenv("HFTRANSFER_BANDWIDTH", "100GB")
    taken: list[int] = []
    take = RateLimiter.charge

    def counted(self: RateLimiter, count: int) -> float:
        taken.append(count)
        return take(self, count)

    monkeypatch.setattr(RateLimiter, "charge", counted)
    store = datastore.storage()
    size = sum(len(data) for data in tree(folder).values())
    for save_or_load, place in (("save", folder), ("load", tmp_path / "loaded")):
        taken.clear()
        getattr(store, f"_{save_or_load}_{form}")("capped-" + form, str(place))

        if datastore.kind == "s3":
            assert sum(taken) >= size
        else:
            assert taken == []


def test_a_store_without_a_listing_of_uploads_is_used(datastore: Datastore) -> None:
    """If a store or a policy forbids to list unfinished uploads, none is assumed."""
    if datastore.kind != "s3":
        pytest.skip("about S3")
    parameters = {**datastore.parameters, "aws_secret_access_key": "wrong"}
    refused = Datastore("s3", datastore.root, parameters).backend

    assert refused.list_uploads("any/") == []
    assert datastore.backend.list_uploads("any/") == []


def test_many_small_objects_keep_their_metadata(datastore: Datastore) -> None:
    """More than ten at once, each with its attributes, which metaflow-checkpoint would lose."""
    backend = datastore.backend
    items = [(f"many/{number}", (io.BytesIO(b"x"), {"n": number})) for number in range(12)]

    backend.save_bytes(iter(items), overwrite=True, len_hint=12)

    assert [backend.info_file(f"many/{number}") for number in (0, 11)] == [
        (True, {"n": 0}),
        (True, {"n": 11}),
    ]
    assert backend.is_file(["many/3", "many/none"]) == [True, False]
    assert backend.size_file("many/3") == 1


def test_encryption_is_requested_for_every_object(
    datastore: Datastore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With METAFLOW_S3_SERVER_SIDE_ENCRYPTION every PUT of the engine carries that header."""
    if datastore.kind != "s3":
        pytest.skip("about S3")
    from hftransfer.stores.s3.client import S3Client
    from metaflow import metaflow_config

    monkeypatch.setattr(metaflow_config, "S3_SERVER_SIDE_ENCRYPTION", "AES256")
    header = "x-amz-server-side-encryption"
    seen: list[str | None] = []
    send = S3Client.send

    async def without(self: S3Client, method: str, *args: str, **kwargs: Any) -> Any:
        """Send the request without the header: MinIO here has no encryption keys."""
        headers = dict(kwargs.pop("headers", None) or {})
        asked = headers.pop(header, None)
        query = kwargs.get("query") or {}
        # An object is written by one PUT, or begun by a POST, whose parts need no header.
        is_begun = method == "POST" and "uploads" in query
        if is_begun or (method == "PUT" and "partNumber" not in query):
            seen.append(asked)
        return await send(self, method, *args, headers=headers, **kwargs)

    monkeypatch.setattr(S3Client, "send", without)
    # Under a key of its own: what another test stored would not be sent again.
    datastore.storage()._save_objects("encrypted", str(folder))

    assert len(seen) >= len(tree(folder))
    assert set(seen) == {"AES256"}


def test_expired_credentials_are_renewed(
    datastore: Datastore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials of a role or provider expire in a transfer, which continues with new ones."""
    if datastore.kind != "s3":
        pytest.skip("about S3")
    from metaflow.plugins.aws import aws_client

    from metaflow_extensions.hftransfer.plugins.engine import s3_clients

    datastore.storage()._save_objects("one", str(folder))
    handed_out: list[str] = []

    class Credentials:
        def get_frozen_credentials(self) -> Any:
            secret = "expired" if not handed_out else datastore.parameters["aws_secret_access_key"]
            handed_out.append(secret)
            key = datastore.parameters["aws_access_key_id"]
            return SimpleNamespace(access_key=key, secret_key=secret, token=None)

    class Provider(aws_client.Boto3ClientProvider):  # type: ignore[misc,unused-ignore]
        name = "ours"

        @staticmethod
        def get_client(*arguments: Any, **options: Any) -> Any:
            del options["role_arn"]
            client, error = aws_client.Boto3ClientProvider.get_client(*arguments, **options)
            client._request_signer = _Signer(client._request_signer, Credentials())
            return client, error

    monkeypatch.setattr(aws_client, "cached_provider_class", Provider)
    store = datastore.storage()
    store._backend._s3_role_arn = "arn:aws:iam::1:role/r"

    store._load_objects("one", str(tmp_path / "loaded"))

    s3_clients._clients.clear()
    assert handed_out == ["expired", datastore.parameters["aws_secret_access_key"]]
    assert tree(tmp_path / "loaded") == tree(folder)


class _Signer:
    """A client's signer with other credentials than those with which it signs."""

    def __init__(self, signer: Any, credentials: Any) -> None:
        self._signer = signer
        self._credentials = credentials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)


def test_parameters_are_neither_changed_nor_on_a_command_line(
    datastore: Datastore, folder: Path, tmp_path: Path
) -> None:
    """The caller's client parameters stay as they are, and no process is started."""
    if datastore.kind != "s3":
        pytest.skip("about S3")
    before = json.dumps(datastore.parameters)
    started: list[Any] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("subprocess.Popen", "os.posix_spawn", "os.fork"):
            started.append(arguments)

    watching = True
    sys.addaudithook(watch)
    store = datastore.storage()
    for form in ("objects", "tarball"):
        getattr(store, f"_save_{form}")(form, str(folder))
        getattr(store, f"_load_{form}")(form, str(tmp_path / form))
    list(store.list_paths([""], recursive=True))
    watching = False

    assert started == []
    assert json.dumps(datastore.parameters) == before
    json.dumps(store._backend._s3_client_params)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("mf.models/models/artifacts/my_net_" + "0af3" * 8, "model my_net"),
        ("my_net_" + "0af3" * 8, "model my_net"),
        ("mf.checkpoints/checkpoints/artifacts/F/s/c/t/ab12.0.best.v2.7", "checkpoint best.v2"),
        ("unknown", "checkpoint unknown"),
    ],
)
def test_progress_names_the_artifact(key: str, name: str) -> None:
    """The label of a model and the name of a checkpoint, without their digests."""
    from metaflow_extensions.hftransfer.plugins.patches.artifacts import artifact_name

    assert artifact_name(key) == name
