"""Fetches the files of a damaged entry again, from the Hub, into the same entry.

Only the recorded commit is fetched, so references to the entry keep their meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.cache_key import recorded_request
from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import manifest_path


def repair(
    access: DatastoreAccess,
    key: str,
    error: Exception,
    log: Callable[[str], None],
    *,
    hub: dict[str, Any] | None = None,
    observer: Any = None,
) -> bool:
    """Repair the entry `key`, if it is one of a Hub repository whose commit is known.

    Parameters
    ----------
    access : DatastoreAccess
        Where the entry is.
    key : str
        Of the entry.
    error : Exception
        How the damage showed.
    log : callable
        Takes one line for the task's log.
    hub : dict, optional
        Arguments for the Hub, such as ``token``.
    observer : callable, optional
        Told of progress.

    Returns
    -------
    bool
        True if the entry is whole again; False if there is nothing to repair it from.
    """
    if "/artifacts/" not in key or not key.startswith("mf.huggingface_hub/"):
        return False
    metadata = access.read_document(key.replace("/artifacts/", "/artifact_metadata/") + ".metadata")
    found = recorded_request((metadata or {}).get("metadata") or {}, hub or {})
    if found is None:
        return False
    request, commit = found
    log(
        f"The stored copy of {request.repo_id} is damaged ({error}). "
        f"Downloading commit {commit[:8]} from huggingface again to repair it"
    )
    moves = access.moves(observer)
    if access.is_s3:
        # An object that is there under the right name may be taken for the right one.
        access.delete(f"{key}/{path}" for path in access.files_below(key))
    report = moves.download(request, [access.location(key)], commit=commit)
    where = manifest_path(key)
    assert where is not None
    access.write_document(where, report.manifest.to_dict())
    log(f"Repaired the stored copy of {request.repo_id} with the key {key}")
    return True
