"""A datastore backend of Metaflow as the plugins use it: locations, documents, listings."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.requirements import (
    UnsupportedByEngine,
    require_engine,
)
from metaflow_extensions.hftransfer.plugins.engine.s3_settings import S3_TYPES, s3_settings

if TYPE_CHECKING:
    from hftransfer._core.events import Observer
    from metaflow_extensions.hftransfer.plugins.engine.documents import Documents
    from metaflow_extensions.hftransfer.plugins.engine.jobs import TransferJobs


class DatastoreAccess:
    """A datastore backend of Metaflow.

    Parameters
    ----------
    backend : DataStoreStorage
        ``local``, ``s3-compatible`` or any other. All keys are relative to its root.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.is_s3: bool = backend.TYPE in S3_TYPES
        self.is_local: bool = backend.TYPE == "local"

    def location(self, key: str) -> str:
        """Return the location of `key` for the engine: ``s3://…`` or an absolute path."""
        # Made from the key, not from a recorded URL: a datastore may have been moved.
        location: str = os.path.join(self._backend.datastore_root, key)
        return os.path.abspath(location) if self.is_local else location

    def jobs(self, observer: Observer | None = None, *, local_only: bool = False) -> TransferJobs:
        """Return the engine's transfers, with the settings of this datastore.

        Parameters
        ----------
        observer : callable, optional
            Called with the events of each transfer.
        local_only : bool
            The transfers reach local folders and the Hub, not this datastore.

        Raises
        ------
        UnsupportedByEngine
            If only Metaflow's own code can reach the datastore from here.
        """
        is_s3 = self.is_s3 and not local_only
        if not (is_s3 or self.is_local or local_only):
            raise UnsupportedByEngine(f"unsupported datastore: {self._backend.TYPE}")
        require_engine(s3=is_s3, flow_on_s3=self.is_s3)
        # Imported here, because it needs the packages that have just been checked.
        from metaflow_extensions.hftransfer.plugins.engine.jobs import TransferJobs

        if not is_s3:
            return TransferJobs({}, observer)
        renew = partial(s3_settings, self._backend)
        return TransferJobs(renew(), observer, renew)

    def read_document(self, key: str) -> Any:
        """Return the JSON document at `key`; None if there is none, or it is not JSON."""
        if self.documents is not None:  # which needs no file for it
            found = self.documents.read_with_etag(key)
            try:
                return None if found is None else json.loads(found[0])
            except ValueError:
                return None
        with self._backend.load_bytes([key]) as results:
            for _, path, _ in results:
                if path is not None:
                    try:
                        with open(path, "rb") as file:
                            return json.load(file)
                    except ValueError:
                        return None
        return None

    def write_document(self, key: str, document: dict[str, Any]) -> None:
        """Store a JSON document, replacing an existing one."""
        data = io.BytesIO(json.dumps(document, separators=(",", ":")).encode())
        self._backend.save_bytes([(key, data)], overwrite=True)

    def list_files(self, key: str) -> list[str]:
        """Return the paths of all files below `key`, relative to it, in no order."""
        found: list[str] = []
        pending = [key.rstrip("/")]
        root = "" if not self.is_local else os.path.abspath(self._backend.datastore_root)
        while pending:
            for item in self._backend.list_content([pending.pop()]):
                path = item.path
                if root and os.path.isabs(path):
                    path = os.path.relpath(path, root)
                if item.is_file:
                    found.append(path.removeprefix(key.rstrip("/") + "/"))
                else:
                    pending.append(path.rstrip("/"))
        return found

    def list_names(self, key: str) -> list[str]:
        """Return the names of the files and folders directly below `key`."""
        items = self._backend.list_content([key.rstrip("/")])
        return [item.path.rstrip("/").rpartition("/")[2] for item in items]

    def list_unfinished(self, key: str) -> list[str]:
        """Return the names directly below `key` with unfinished uploads, if the store lists them.

        MinIO lists an unfinished upload only for the exact key of its object.
        """
        if not hasattr(self._backend, "list_uploads"):
            return []
        prefix = key.rstrip("/") + "/"
        found = (path.removeprefix(prefix) for path, _ in self._backend.list_uploads(prefix))
        return sorted({path.partition("/")[0] for path in found})

    def exists(self, key: str) -> bool:
        """Return True if there is a document or object `key`."""
        return bool(self._backend.is_file([key])[0])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; a missing one is no error."""
        for key in keys:
            if self.is_local:
                try:
                    os.remove(self.location(key))
                except FileNotFoundError:
                    pass
            elif hasattr(self._backend, "delete"):
                self._backend.delete(key)

    def delete_tree(self, key: str, exact: Iterable[str] = ()) -> bool:
        """Delete the object `key`, everything below it, and all unfinished uploads there.

        Parameters
        ----------
        key : str
        exact : iterable of str
            Keys that may have an unfinished upload, for stores that list uploads only by the
            exact key.

        Returns
        -------
        bool
            True if anything was there.
        """
        if self.is_local:
            path = self.location(key)
            existed = os.path.lexists(path)
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            elif existed:
                os.remove(path)
            return existed
        aborted = self.abort_uploads(key, exact)
        paths = self.list_files(key)
        self.delete(f"{key}/{path}" for path in paths)
        is_object = self.exists(key)
        if is_object:
            self.delete([key])
        return bool(aborted or paths or is_object)

    def abort_uploads(self, key: str, exact: Iterable[str] = ()) -> int:
        """Abort the uploads of `key`, below `key` and of the keys `exact`; return how many."""
        if not hasattr(self._backend, "list_uploads"):
            return 0
        uploads = {
            upload
            for prefix in (key, key.rstrip("/") + "/", *exact)
            for upload in self._backend.list_uploads(prefix)
            # A prefix also matches keys that merely begin with the same text.
            if upload[0] == prefix or upload[0].startswith(prefix.rstrip("/") + "/")
        }
        for path, upload_id in uploads:
            self._backend.abort_upload(path, upload_id)
        return len(uploads)

    @property
    def documents(self) -> Documents | None:
        """The datastore as a store of documents with conditional writes; None if it has none."""
        is_conditional = hasattr(self._backend, "write_if") and hasattr(
            self._backend, "read_with_etag"
        )
        return self._backend if is_conditional else None
