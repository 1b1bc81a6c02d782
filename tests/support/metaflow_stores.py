"""metaflow-checkpoint's storage classes in this process, without a flow.

Everything is the real code of Metaflow and metaflow-checkpoint except the flow, which gives a
task its names.
"""

from __future__ import annotations

import base64
import gzip
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
REPO = "acme/model"


def python_path() -> str:
    """Return PYTHONPATH for a program that imports `support`, in this process's environment."""
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, (inherited, str(TESTS))))


@dataclass(frozen=True)
class Datastore:
    """A datastore backend as Metaflow would choose it."""

    kind: str
    root: str
    parameters: Any = None
    role: str | None = None

    @property
    def backend(self) -> Any:
        """A new backend, as every task has its own."""
        from metaflow.plugins import DATASTORES

        name = "s3-compatible" if self.kind == "s3" else "local"
        (found,) = [datastore for datastore in DATASTORES if name == datastore.TYPE]
        if self.kind == "s3":
            return found(self.root, client_params=dict(self.parameters), role_arn=self.role)
        return found(self.root)

    def storage(self, *components: str, prefix: str = "mf.models") -> Any:
        """metaflow-checkpoint's view of one folder of the datastore."""
        from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
            core,
        )

        return core.ObjectStorage(self.backend, prefix, list(components) or ["models", "artifacts"])

    def read(self, key: str) -> bytes | None:
        """Return what is stored under `key`."""
        with self.backend.load_bytes([key]) as results:
            for _, path, _ in results:
                return None if path is None else Path(path).read_bytes()
        return None

    def write(self, key: str, data: bytes) -> None:
        """Store `data`, replacing an existing object."""
        import io

        self.backend.save_bytes([(key, io.BytesIO(data))], overwrite=True)

    def keys(self, below: str = "") -> list[str]:
        """Return all keys below a folder, sorted."""
        from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess

        prefix = f"{below}/" if below else ""
        return sorted(prefix + path for path in DatastoreAccess(self.backend).list_files(below))


def checkpoint_store(
    datastore: Datastore,
    log: Any,
    *,
    task: str = "Flow/1/start/1",
    attempt: int = 0,
    identifier: str = "single",
    exclusive: bool = True,
    siblings: bool = True,
) -> Any:
    """Return the `CheckpointStore` that the task of this path would have."""
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import CheckpointStore
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        checkpoint_storage,
        core,
    )

    store = checkpoint_storage.CheckpointDatastore.init_write_store(
        datastore.backend, pathspec=task, scope="scope", task_identifier=identifier
    )
    checkpointer = core.Checkpointer(store, attempt=attempt)
    checkpointer.set_root_prefix("mf.huggingface_hub")
    return CheckpointStore(
        SimpleNamespace(_checkpointer=checkpointer),
        log,
        exclusive=exclusive,
        temp_dir_root=None,
        siblings=siblings,
    )


def repo_cache(
    datastore: Datastore,
    log: Any,
    *,
    task: str = "Flow/1/start/1",
    attempt: int = 0,
    scope: str = "checkpoint",
    identifier: str = "single",
    may_retry: bool = False,
    links: bool = False,
    exclusive: bool = True,
    owner: str | None = None,
) -> Any:
    """Return the `RepoCache` that the task of this path would have."""
    from metaflow_extensions.hftransfer.plugins.hub.cache import RepoCache
    from metaflow_extensions.hftransfer.plugins.hub.transfer import RepoTransfers

    store = checkpoint_store(
        datastore,
        log,
        task=task,
        attempt=attempt,
        identifier=identifier,
        exclusive=exclusive,
        siblings=scope == "checkpoint",
    )
    transfers = RepoTransfers(store, log, links=links)
    return RepoCache(store, transfers, scope, log, owner=owner or task, may_retry=may_retry)


def stored_folder(folder: Path) -> tuple[Path, Any]:
    """Make a folder with the files `a` and `deep/b`; return it and its manifest.

    The manifest has chunks of 64 bytes.
    """
    # Imported here: programs without hftransfer, or without its packages, import this module.
    from hftransfer import FileManifest, Manifest
    from hftransfer._core.digests import chunk_digest

    files = {}
    for name, data in (("a", b"a" * 100), ("deep/b", b"b" * 1000)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        chunks = tuple(
            chunk_digest(memoryview(data)[start : start + 64]) for start in range(0, len(data), 64)
        )
        files[name] = FileManifest(size=len(data), chunk_size=64, chunks=chunks)
    return folder, Manifest(source="here", files=files)


def unpacked(data: bytes) -> bytes:
    """Return `data` followed by its unpacked content: of an artifact, or of a card."""
    if data.startswith(b"\x1f\x8b"):
        return data + gzip.decompress(data)
    packed = re.findall(rb"[A-Za-z0-9+/=]{400,}", data)
    return data + b"".join(base64.b64decode(text + b"===") for text in packed)
