"""Repairs stored entries: their damaged files are fetched from the Hub again, then swapped.

The recorded commit is fetched, into a folder beside the entries, and verified against the Hub's
digests. Only then are the damaged files replaced, each by one rename or one copy within the
store, by what the manifest says, so references to the entry and the tasks that read it stay
valid. If anything fails before, the entry is as it was.

    with_repair: load → DamagedError → flight: find_damage → download → swap → load
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

from hftransfer.errors import AccessError, IntegrityError, NotFoundError, TransferError
from metaflow_extensions.hftransfer.plugins.engine.cache_key import recorded_request
from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    HuggingfaceHubError,
    RepoRequest,
)
from metaflow_extensions.hftransfer.plugins.engine.manifests import (
    is_manifest,
    manifest_path,
    metadata_path,
    recorded_files,
)
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.hub.single_flight import flight_name, single_flight

T = TypeVar("T")
Log = Callable[[str], None]

_ROOT = "mf.huggingface_hub"
_SHOWN = 10  # files that a message names


class DamagedError(Exception):
    """A stored copy is incomplete or wrong; the message says how."""


class UnrepairedError(HuggingfaceHubError, IntegrityError):
    """A stored copy is damaged and was left as it is, because it could not be repaired.

    The message says which files are damaged, and what would mend them.
    """

    def __init__(self, message: str) -> None:
        HuggingfaceHubError.__init__(self, message)
        IntegrityError.__init__(self, message)


class UnknownOriginError(Exception):
    """The repository or the commit of a damaged entry is not recorded."""


def with_repair(
    access: DatastoreAccess,
    key: str,
    load: Callable[[], T],
    log: Log,
    *,
    hub: dict[str, Any] | None = None,
    progress: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> T:
    """Load the entry `key`; if it is damaged, repair it first. Return the result of `load`.

    Of several tasks one repairs; the others wait, and then load, all at the same time.

    Parameters
    ----------
    access : DatastoreAccess
        The datastore of the entry.
    key : str
        Of the entry, relative to the root.
    load : callable
        Raises `DamagedError` if the entry is damaged.
    log : callable
        Takes one line for the task's log.
    hub : dict, optional
        Arguments for the access to the Hub, such as ``token``.
    progress : callable, optional
        Returns a context manager with a callable, which gets the events of a repair.

    Raises
    ------
    UnknownOriginError
        If the entry is damaged, and not of a repository whose commit is recorded, or the engine
        cannot be used. Its cause is the `DamagedError`.
    UnrepairedError
        If the damaged files cannot be fetched.
    """
    while True:
        try:
            return load()
        except DamagedError as error:
            entry = _entry(access, key, hub or {}, error)
            with single_flight(
                access,
                _ROOT,
                flight_name("repair", key),
                doing=f"repairing the stored copy of {entry.request.repo_id}",
                log=log,
            ) as flight:
                if flight.waited:
                    continue  # it is repaired now, or as damaged as before
                with progress() as observer:
                    _repair(access, entry, log, observer)
        return load()


class _Entry(NamedTuple):
    """A damaged entry."""

    key: str
    request: RepoRequest
    commit: str
    error: DamagedError


def _entry(access: DatastoreAccess, key: str, hub: dict[str, Any], error: DamagedError) -> _Entry:
    found = None
    if "/artifacts/" in key and key.startswith(_ROOT + "/"):
        metadata = access.read_document(metadata_path(key))
        found = recorded_request((metadata or {}).get("metadata") or {}, hub)
    if found is None:
        raise UnknownOriginError(str(error)) from error
    return _Entry(key, *found, error)


def _repair(access: DatastoreAccess, entry: _Entry, log: Log, observer: Any) -> None:
    """Fetch and swap the damaged files of `entry`, while this task holds its flight."""
    try:
        jobs = access.jobs(observer)
    except UnsupportedByEngine:
        raise UnknownOriginError(str(entry.error)) from entry.error
    request, location = entry.request, access.location(entry.key)
    document_path = manifest_path(entry.key)
    assert document_path is not None
    document = access.read_document(document_path)
    damaged: dict[str, str] = {}
    staging = f"{_ROOT}/checkpoints/repairs/{flight_name(entry.key)}"
    access.delete_tree(staging)  # of a task that was killed
    try:
        damaged = jobs.find_damage(location, document, request, entry.commit)
        if not damaged and is_manifest(document):
            return  # another task has just repaired it
        if damaged:
            log(
                f"The stored copy of {request.repo_id} is damaged ({_shown(damaged)}). "
                f"Downloading commit {entry.commit[:8]} of the damaged files from huggingface"
            )
            report = jobs.download(
                request, [access.location(staging)], commit=entry.commit, only=damaged.keys()
            )
            _check_digests(report.manifest.to_dict(), document)
            jobs.swap(access.location(staging), location)
    except TransferError as error:
        raise _unrepaired(entry, damaged, error) from error
    finally:
        access.delete_tree(staging)
    if damaged and is_manifest(document):
        changed = {path: report.manifest.to_dict()["files"][path] for path in damaged}
        renewed = {**document, "files": {**document["files"], **changed}}
    else:
        manifest = jobs.manifest_of(location).to_dict()
        renewed = {**manifest, "source": request.source, "commit": entry.commit}
    if renewed != document:
        access.write_document(document_path, renewed)
    log(f"Repaired the stored copy of {request.repo_id} with the key {entry.key}")


def _check_digests(fetched: dict[str, Any], document: Any) -> None:
    """Check that the Hub still has the files that were stored.

    Raises
    ------
    IntegrityError
        If the digest of a file is another one than the manifest's.
    """
    recorded = recorded_files(document) or {}
    for path, file in fetched["files"].items():
        expected = recorded[path][1] if path in recorded else None
        if expected is not None and file["digest"] is not None and file["digest"] != expected:
            raise IntegrityError(
                f"{path}: the Hub has {file['digest']} for the commit, and {expected} was stored"
            )


def _unrepaired(entry: _Entry, damaged: dict[str, str], error: TransferError) -> UnrepairedError:
    request = entry.request
    what = _shown(damaged) if damaged else str(entry.error)
    return UnrepairedError(
        f"The stored copy of {request.repo_id} is damaged, and could not be repaired. It was not "
        f"changed. Damaged: {what}. Key: {entry.key}. Reason: {error}. {_remedy(entry, error)}"
    )


def _remedy(entry: _Entry, error: TransferError) -> str:
    request = entry.request
    if isinstance(error, AccessError):
        return (
            "To mend it, run this where a token is set that can read the repository: HF_TOKEN, or "
            "token in load=."
        )
    if isinstance(error, NotFoundError):
        return (
            f"The Hub has no commit {entry.commit[:8]} of {request.repo_id} any more, or shows it "
            "only with a token (HF_TOKEN). To mend it, restore the files from a backup of the "
            "datastore, or store another revision with force_download=True."
        )
    return "To mend it, run this again when the Hub can be reached."


def _shown(damaged: dict[str, str]) -> str:
    named = [f"{path}: {problem}" for path, problem in sorted(damaged.items())[:_SHOWN]]
    if len(damaged) > _SHOWN:
        named.append(f"and {len(damaged) - _SHOWN} more files")
    return "; ".join(named)
