"""Downloads the files of a damaged entry from the Hub again, into the same entry.

Only the recorded commit is downloaded, so that references to the entry stay valid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.cache_key import recorded_request
from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import manifest_path, metadata_path


def repair(
    access: DatastoreAccess,
    key: str,
    error: Exception,
    log: Callable[[str], None],
    *,
    hub: dict[str, Any] | None = None,
    observer: Any = None,
) -> bool:
    """Repair the entry `key`, if it is of a Hub repository whose commit is recorded.

    Parameters
    ----------
    access : DatastoreAccess
        The datastore of the entry.
    key : str
        Of the entry, relative to the root.
    error : Exception
        The damage that was detected.
    log : callable
        Takes one line for the task's log.
    hub : dict, optional
        Arguments for the access to the Hub, such as ``token``.
    observer : callable, optional
        Called with the events of the transfer.

    Returns
    -------
    bool
        True if the entry is complete again; False if its repository or commit is unknown.
    """
    if "/artifacts/" not in key or not key.startswith("mf.huggingface_hub/"):
        return False
    metadata = access.read_document(metadata_path(key))
    found = recorded_request((metadata or {}).get("metadata") or {}, hub or {})
    if found is None:
        return False
    request, commit = found
    log(
        f"The stored copy of {request.repo_id} is damaged ({error}). "
        f"Downloading commit {commit[:8]} from huggingface again to repair it"
    )
    jobs = access.jobs(observer)
    if access.is_s3:
        # The engine may skip the upload of an object that exists with the right size.
        access.delete(f"{key}/{path}" for path in access.list_files(key))
    report = jobs.download(request, [access.location(key)], commit=commit)
    document_path = manifest_path(key)
    assert document_path is not None
    access.write_document(document_path, report.manifest.to_dict())
    log(f"Repaired the stored copy of {request.repo_id} with the key {key}")
    return True
