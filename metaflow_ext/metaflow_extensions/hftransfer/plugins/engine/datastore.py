"""One datastore, as the engine and the front end see it: locations, documents, leftovers."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.s3_settings import (
    S3_TYPES,
    NotForEngine,
    s3_settings,
)

if TYPE_CHECKING:
    from hftransfer._core.events import Observer
    from metaflow_extensions.hftransfer.plugins.engine.documents import Documents
    from metaflow_extensions.hftransfer.plugins.engine.jobs import Moves


class DatastoreAccess:
    """A datastore backend of Metaflow.

    Parameters
    ----------
    backend : DataStoreStorage
        ``local``, ``s3-compatible`` or any other; keys are relative to its root.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.is_s3: bool = backend.TYPE in S3_TYPES
        self.is_local: bool = backend.TYPE == "local"

    def location(self, key: str) -> str:
        """Return where `key` is, as the engine names it."""
        # From the key, not from a recorded URL: a datastore may have moved.
        place: str = os.path.join(self._backend.datastore_root, key)
        return os.path.abspath(place) if self.is_local else place

    def moves(self, observer: Observer | None = None) -> Moves:
        """Return the engine, set up for this datastore.

        Parameters
        ----------
        observer : callable, optional
            Told of progress.

        Raises
        ------
        NotForEngine
            If the datastore can only be reached by Metaflow's own code from here.
        """
        if not (self.is_s3 or self.is_local):
            raise NotForEngine(f"the datastore {self._backend.TYPE}")
        require_engine(s3=self.is_s3)
        from metaflow_extensions.hftransfer.plugins.engine.jobs import Moves

        if not self.is_s3:
            return Moves({}, observer)
        renew = partial(s3_settings, self._backend)
        return Moves(renew(), observer, renew)

    def read_document(self, key: str) -> Any:
        """Return the JSON document at `key`; None if there is none, or it is not JSON."""
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
        """Store a JSON document."""
        data = io.BytesIO(json.dumps(document, separators=(",", ":")).encode())
        self._backend.save_bytes([(key, data)], overwrite=True)

    def files_below(self, key: str) -> list[str]:
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

    def is_there(self, key: str) -> bool:
        """Return True if there is a document or object `key`."""
        return bool(self._backend.is_file([key])[0])

    def names_in(self, key: str) -> list[str]:
        """Return the names of the files and folders right below `key`."""
        items = self._backend.list_content([key.rstrip("/")])
        return [item.path.rstrip("/").rpartition("/")[2] for item in items]

    def unfinished_in(self, key: str) -> list[str]:
        """Return the names right below `key` below which uploads have begun, as far as known."""
        if not hasattr(self._backend, "uploads"):
            return []
        prefix = key.rstrip("/") + "/"
        found = (path.removeprefix(prefix) for path, _ in self._backend.uploads(prefix))
        return sorted({path.partition("/")[0] for path in found})

    def end_uploads(self, key: str, exact: Iterable[str] = ()) -> int:
        """End all uploads of `key` and below it, and those of the keys `exact`; return how many."""
        if not hasattr(self._backend, "uploads"):
            return 0
        found = {
            upload
            for wanted in (key, key.rstrip("/") + "/", *exact)
            for upload in self._backend.uploads(wanted)
            if upload[0] == wanted or upload[0].startswith(wanted.rstrip("/") + "/")
        }
        for path, upload_id in found:
            self._backend.abort(path, upload_id)
        return len(found)

    def discard(self, key: str, exact: Iterable[str] = ()) -> bool:
        """Remove the object `key`, all below it, and all uploads to there.

        Parameters
        ----------
        key : str
        exact : iterable of str
            Keys of which uploads may have begun.

        Returns
        -------
        bool
            True if there was anything.
        """
        if self.is_local:
            place = self.location(key)
            there = os.path.lexists(place)
            if os.path.isdir(place):
                shutil.rmtree(place, ignore_errors=True)
            elif there:
                os.remove(place)
            return there
        ended = self.end_uploads(key, exact)
        paths = self.files_below(key)
        self.delete(f"{key}/{path}" for path in paths)
        whole = self.is_there(key)
        if whole:
            self.delete([key])
        return bool(ended or paths or whole)

    @property
    def documents(self) -> Documents | None:
        """The datastore as one of documents with conditional writes, if it is such a one."""
        can = hasattr(self._backend, "write_if") and hasattr(self._backend, "read_with_etag")
        return self._backend if can else None

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; one that is gone already is no error."""
        for key in keys:
            if self.is_local:
                try:
                    os.remove(self.location(key))
                except FileNotFoundError:
                    pass
            elif hasattr(self._backend, "delete"):
                self._backend.delete(key)


def require_engine(*, s3: bool) -> None:
    """Check that the engine's packages are here.

    Raises
    ------
    NotForEngine
        Naming those that are missing.
    """
    from metaflow_extensions.hftransfer.plugins.engine.requirements import missing_packages

    if missing := missing_packages(s3=s3):
        raise NotForEngine(f"missing packages: {missing}")
