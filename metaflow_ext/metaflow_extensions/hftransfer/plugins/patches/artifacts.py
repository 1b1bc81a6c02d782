"""Whole checkpoints and models loaded and saved by the engine: the work of `object_storage`.

Each function takes an `ObjectStorage` of metaflow-checkpoint, a key in it and a local path,
and returns what the method that it replaces returns. Or it raises `UnsupportedByEngine`
before anything was changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import manifest_path, recorded_files
from metaflow_extensions.hftransfer.plugins.engine.orphans import parse_key_name, remove_orphans
from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_line, log_removed
from metaflow_extensions.hftransfer.plugins.engine.unfinished_saves import recorded
from metaflow_extensions.hftransfer.plugins.hub.repair import (
    DamagedError,
    UnknownOriginError,
    with_repair,
)

_MODEL = re.compile(r"(.*)_[0-9a-f]{32}")

Saved = tuple[str, str, int]
"""URL, key relative to the root, and bytes."""


def save_objects(store: Any, key: str, local_path: str) -> Saved:
    """Store a file, or the files of a folder, below `key`."""
    local_path = os.fspath(local_path)
    os.stat(local_path)  # raises FileNotFoundError
    access = DatastoreAccess(store._backend)
    jobs = access.jobs(_progress(key))
    path = store.resolve_key_relative_path(key)
    large = _large_files(local_path)
    log_removed(lambda: remove_orphans(access, path, large))
    with recorded(access, path, large), _unsupported_by_engine():
        report = jobs.save(os.path.abspath(local_path), access.location(path))
    _write_manifest(access, path, report)
    size = sum(file.size for file in report.manifest.files.values())
    return store.resolve_key_full_url(key), path, size


def save_tarball(store: Any, key: str, local_path: str) -> Saved:
    """Store a file or folder as a tar archive, without writing it to the local disk."""
    local_path = os.fspath(local_path)
    os.stat(local_path)  # raises FileNotFoundError
    access = DatastoreAccess(store._backend)
    jobs = access.jobs(_progress(key))
    path = store.resolve_key_relative_path(key)
    log_removed(lambda: remove_orphans(access, path, [""]))
    with recorded(access, path, [""]), _unsupported_by_engine():
        report, size = jobs.save_tar(os.path.abspath(local_path), access.location(path))
    _write_manifest(access, path, report)
    return store.resolve_key_full_url(key), path, size


def load_objects(store: Any, key: str, local_directory: str) -> str:
    """Load the files below `key` to their final paths, without temporary copies."""
    from hftransfer import IntegrityError, NotFoundError

    access = DatastoreAccess(store._backend)
    progress = _progress(key)
    jobs = access.jobs(progress)
    path = store.resolve_key_relative_path(key)
    source, target = access.location(path), os.path.abspath(local_directory)

    def load() -> None:
        document = _read_manifest(access, path)
        progress.what = _repository_of(document) or progress.what
        try:
            with _unsupported_by_engine():
                jobs.load(source, target, document=document)
        except (IntegrityError, NotFoundError) as error:
            raise DamagedError(str(error)) from error

    try:
        with_repair(access, path, load, log_line)
    except UnknownOriginError as error:
        damage = error.__cause__
        assert damage is not None
        if isinstance(damage.__cause__, NotFoundError):
            raise _key_not_found(path) from damage.__cause__
        raise damage.__cause__ or damage from None
    return local_directory


def load_tarball(store: Any, key: str, local_path: str) -> str:
    """Unpack the tar archive at `key`, without writing it to the local disk."""
    from hftransfer import NotFoundError

    access = DatastoreAccess(store._backend)
    jobs = access.jobs(_progress(key))
    path = store.resolve_key_relative_path(key)
    document = _read_manifest(access, path)
    try:
        with _unsupported_by_engine():
            jobs.load_tar(access.location(path), os.path.abspath(local_path), document=document)
    except NotFoundError as error:
        raise _key_not_found(path) from error
    return local_path


def check_loaded(store: Any, key: str, local_directory: str) -> None:
    """Verify files that Metaflow's own code loaded against the recorded sizes and digests.

    Raises
    ------
    WrongFileError
        If a file is missing or wrong.
    """
    from metaflow_extensions.hftransfer.plugins.engine.file_digests import (
        WrongFileError,
        find_mismatch,
    )

    access = DatastoreAccess(store._backend)
    path = store.resolve_key_relative_path(key)
    for name, (size, digest) in (recorded_files(_read_manifest(access, path)) or {}).items():
        if problem := find_mismatch(os.path.join(local_directory, name), size, digest):
            raise WrongFileError(f"{access.location(path)}: {name}: {problem}")


def _large_files(local_path: str) -> list[str]:
    """Return the paths, below the saved folder, of files that are uploaded in parts."""
    if os.path.isfile(local_path):
        return [os.path.basename(local_path)]
    from hftransfer import TransferOptions

    chunk_size = TransferOptions.from_env().chunk_size
    paths = [
        os.path.join(folder, name) for folder, _, names in os.walk(local_path) for name in names
    ]
    large = [path for path in paths if os.path.isfile(path) and os.path.getsize(path) > chunk_size]
    return [os.path.relpath(path, local_path) for path in large]


@contextmanager
def _unsupported_by_engine() -> Iterator[None]:
    """Raise `UnsupportedByEngine` for what the engine refuses, such as some file names."""
    from hftransfer import LocationError, UnsupportedError

    try:
        yield
    except (LocationError, UnsupportedError) as error:
        raise UnsupportedByEngine(str(error)) from error


def _read_manifest(access: DatastoreAccess, path: str) -> Any:
    document_path = manifest_path(path)
    return None if document_path is None else access.read_document(document_path)


def artifact_name(key: str) -> str:
    """Return what users call the artifact `key`, for the log: its label, or its name.

    The last part of a model's key is ``<label>_<32 hex digits>``, that of a checkpoint's is
    ``<hash>.<attempt>.<name>.<version>``.
    """
    last = key.rstrip("/").rpartition("/")[2]
    model = _MODEL.fullmatch(last)
    if model is not None:
        return f"model {model[1]}"
    parsed = parse_key_name(last)
    return f"checkpoint {last if parsed is None else parsed.name}"


def _repository_of(document: Any) -> str | None:
    """Return the Hub's repository of a stored manifest; None if it is of something else."""
    source = str(document.get("source") or "") if isinstance(document, dict) else ""
    return source.removeprefix("hf://") if source.startswith("hf://") else None


def _write_manifest(access: DatastoreAccess, path: str, report: Any) -> None:
    from metaflow import current

    document_path = manifest_path(path)
    # The nodes of @parallel write the same keys, so a manifest could be of another node's files.
    nodes = getattr(getattr(current, "parallel", None), "num_nodes", 1) or 1
    if document_path is not None and nodes < 2:
        access.write_document(document_path, report.manifest.to_dict())


def _progress(key: str) -> TransferProgress:
    from metaflow.metaflow_config import HFTRANSFER_PROGRESS_INTERVAL

    return TransferProgress(
        artifact_name(key), log_line, interval=float(HFTRANSFER_PROGRESS_INTERVAL)
    )


def _key_not_found(path: str) -> Exception:
    """Return metaflow-checkpoint's error for a missing key, which its callers handle."""
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.exceptions import (
        KeyNotFoundError,
    )

    error: Exception = KeyNotFoundError(path)
    return error
