"""What the hooks do: load and save whole checkpoints and models by the engine.

Each function takes an `ObjectStorage` of metaflow-checkpoint, a key in it and a local
path, and returns what the method that it replaces returns; or it raises `NotForEngine`
before anything was changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import known_files, manifest_path
from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress
from metaflow_extensions.hftransfer.plugins.engine.s3_settings import NotForEngine
from metaflow_extensions.hftransfer.plugins.engine.unfinished_saves import noted

T = TypeVar("T")
Saved = tuple[str, str, int]


def save_objects(store: Any, key: str, local_path: str) -> Saved:
    """Store a file, or a folder's files, below `key`."""
    local_path = os.fspath(local_path)
    os.stat(local_path)
    access = DatastoreAccess(store._backend)
    moves = access.moves(_progress(key))
    path = store.resolve_key_relative_path(key)
    large = _files(local_path)
    _remove_leftovers(access, path, large)
    with noted(access, path, large):
        report = _handled(lambda: moves.save(os.path.abspath(local_path), access.location(path)))
    _write_manifest(access, path, report)
    size = sum(file.size for file in report.manifest.files.values())
    return store.resolve_key_full_url(key), path, size


def save_tarball(store: Any, key: str, local_path: str) -> Saved:
    """Store a file or folder as one tar archive, which never lies on the local disk."""
    local_path = os.fspath(local_path)
    os.stat(local_path)
    access = DatastoreAccess(store._backend)
    moves = access.moves(_progress(key))
    path = store.resolve_key_relative_path(key)
    _remove_leftovers(access, path, [""])
    with noted(access, path, [""]):
        report, size = _handled(
            lambda: moves.save_tar(os.path.abspath(local_path), access.location(path))
        )
    _write_manifest(access, path, report)
    return store.resolve_key_full_url(key), path, size


def load_objects(store: Any, key: str, local_directory: str) -> str:
    """Load the files below `key`, straight to their places."""
    from hftransfer import IntegrityError, NotFoundError

    access = DatastoreAccess(store._backend)
    moves = access.moves(_progress(key))
    path = store.resolve_key_relative_path(key)
    source, target = access.location(path), os.path.abspath(local_directory)

    def load() -> None:
        document = _read_manifest(access, path)
        _handled(lambda: moves.load(source, target, document=document))

    try:
        load()
    except (IntegrityError, NotFoundError) as error:
        if not _repair(access, path, error):
            if isinstance(error, NotFoundError):
                raise _not_found(path) from error
            raise
        load()
    return local_directory


def load_tarball(store: Any, key: str, local_path: str) -> str:
    """Unpack the tar archive at `key`, without a copy of it on the local disk."""
    from hftransfer import NotFoundError

    access = DatastoreAccess(store._backend)
    moves = access.moves(_progress(key))
    path = store.resolve_key_relative_path(key)
    document = _read_manifest(access, path)
    try:
        _handled(
            lambda: moves.load_tar(
                access.location(path), os.path.abspath(local_path), document=document
            )
        )
    except NotFoundError as error:
        raise _not_found(path) from error
    return local_path


def check_loaded(store: Any, key: str, local_directory: str) -> None:
    """Check what was loaded without the engine against the recorded sizes and digests.

    Raises
    ------
    WrongFileError
        If a file is missing or wrong.
    """
    from metaflow_extensions.hftransfer.plugins.engine.file_digests import (
        WrongFileError,
        wrong_file,
    )

    access = DatastoreAccess(store._backend)
    path = store.resolve_key_relative_path(key)
    for name, (size, digest) in (known_files(_read_manifest(access, path)) or {}).items():
        if problem := wrong_file(os.path.join(local_directory, name), size, digest):
            raise WrongFileError(f"{access.location(path)}: {name}: {problem}")


def _files(local_path: str) -> list[str]:
    """Return the paths, below what is saved, of files that go up in parts."""
    if os.path.isfile(local_path):
        return [os.path.basename(local_path)]
    from hftransfer import TransferOptions

    chunk_size = TransferOptions.from_env().chunk_size
    paths = [
        os.path.join(folder, name) for folder, _, names in os.walk(local_path) for name in names
    ]
    large = [path for path in paths if os.path.isfile(path) and os.path.getsize(path) > chunk_size]
    return [os.path.relpath(path, local_path) for path in large]


def _remove_leftovers(access: DatastoreAccess, path: str, large: list[str]) -> None:
    from metaflow_extensions.hftransfer.plugins.engine.orphans import remove_leftovers

    try:
        removed = remove_leftovers(access, path, large)
    except Exception as error:  # noqa: BLE001 - what is left costs space, and is no reason to fail
        _print(f"Could not look for what an earlier attempt left: {type(error).__name__}")
        return
    for key in removed:
        _print(f"Removed what an earlier attempt of this task left of {key}")


def _handled(operation: Callable[[], T]) -> T:
    """Run `operation`; what the engine cannot do is left to metaflow-checkpoint."""
    from hftransfer import LocationError, UnsupportedError

    try:
        return operation()
    except (LocationError, UnsupportedError) as error:
        raise NotForEngine(str(error)) from error


def _read_manifest(access: DatastoreAccess, path: str) -> Any:
    where = manifest_path(path)
    return None if where is None else access.read_document(where)


def _write_manifest(access: DatastoreAccess, path: str, report: Any) -> None:
    from metaflow import current

    where = manifest_path(path)
    # The nodes of @parallel write the same keys; a manifest could be of another's files.
    nodes = getattr(getattr(current, "parallel", None), "num_nodes", 1) or 1
    if where is not None and nodes < 2:
        access.write_document(where, report.manifest.to_dict())


def _repair(access: DatastoreAccess, path: str, error: Exception) -> bool:
    from metaflow_extensions.hftransfer.plugins.hub.repair import repair

    return repair(access, path, error, _print)


def _progress(key: str) -> TransferProgress:
    """Have a line in the log every few seconds, if it takes that long."""
    from metaflow.metaflow_config import HFTRANSFER_PROGRESS_INTERVAL

    return TransferProgress(key, _print, interval=float(HFTRANSFER_PROGRESS_INTERVAL))


def _print(message: str) -> None:
    print(f"[hftransfer] {message}", file=sys.stderr)  # noqa: T201 - the log of the task


def _not_found(path: str) -> Exception:
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.exceptions import (
        KeyNotFoundError,
    )

    error: Exception = KeyNotFoundError(path)
    return error
