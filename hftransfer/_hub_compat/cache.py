"""Layout of huggingface_hub's cache: blobs, snapshots, refs and cached tree listings.

::

    <cache>/CACHEDIR.TAG
    <cache>/.locks/models--org--name/<etag>.lock
    <cache>/models--org--name/
        blobs/<etag>                      content; the etag is its sha256 or git blob sha1
        snapshots/<commit>/<path>         relative symlink to ../../blobs/<etag>
        refs/<revision>                   the commit, 40 characters
        trees/<commit>.json               all files of the commit with size and digests
        .no_exist/<commit>/<path>         empty: known not to exist

Two libraries and several versions work on one cache at the same time: every file appears
under its name complete, by a rename, and nothing that exists is opened for writing (a blob
may be a symlink into a store that other repositories share). Unfinished files end in
``.incomplete`` and lie in ``blobs/``, where ``hf cache prune`` looks for them.

Everything here blocks and belongs into worker threads.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftransfer._core.digests import Digest
from hftransfer._io.atomic_write import replace_atomically, write_atomically
from hftransfer.errors import LocationError
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry

__all__ = (
    "RepoCache",
    "content_etag",
    "create_cachedir_tag",
    "is_commit",
    "read_tree",
    "write_tree",
)

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_XET_HASH = re.compile(r"[0-9a-fA-F]{64}")
_TREE_VERSION = 1
# What makes a directory a cache for backup tools: https://bford.info/cachedir/
_CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This directory is a cache of files of the Hugging Face Hub.\n"
    "# See https://bford.info/cachedir/ for what this file means.\n"
)
_NO_SYMLINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})


def is_commit(revision: str) -> bool:
    """Return True if `revision` is a full commit id, which can never change its meaning."""
    return _COMMIT.fullmatch(revision) is not None


def content_etag(entry: Entry) -> str:
    """Return the name of the content of `entry` in a cache.

    Raises:
        LocationError: if its digest is none of the Hub's, or not fit for a file name.
    """
    digest = entry.digest
    if digest is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest.value):
        raise LocationError(f"the Hub gives no usable digest for {entry.path!r}")
    return digest.value


@dataclass(frozen=True)
class RepoCache:
    """Where one repository lies in a cache.

    Args:
        root: the cache directory, absolute.
        repo_type: ``model``, ``dataset``, ``space`` or ``kernel``.
        repo_id: ``name`` or ``namespace/name``.
    """

    root: Path
    repo_type: str
    repo_id: str

    @property
    def _folder_name(self) -> str:
        return "--".join([f"{self.repo_type}s", *self.repo_id.split("/")])

    @property
    def folder(self) -> Path:
        return self.root / self._folder_name

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    def blob(self, etag: str) -> Path:
        return self.blobs / etag

    def lock(self, etag: str) -> Path:
        return self.root / ".locks" / self._folder_name / f"{etag}.lock"

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def pointer(self, commit: str, path: str) -> Path:
        """The file `path` of a snapshot.

        Raises:
            LocationError: if `path` would leave the snapshot.
        """
        return self.snapshot(commit) / safe_path(path)

    def tree(self, commit: str) -> Path:
        return self.folder / "trees" / f"{commit}.json"

    def read_ref(self, revision: str) -> str | None:
        """Return the commit that `revision` was when it was last seen, None if never."""
        try:
            commit = (self.folder / "refs" / safe_path(revision)).read_text().strip()
        except (OSError, LocationError):
            return None
        return commit if is_commit(commit) else None

    def write_ref(self, revision: str, commit: str) -> None:
        """Record that `revision` is `commit` now. A commit needs no record."""
        if revision == commit or self.read_ref(revision) == commit:
            return
        # Every file under refs/ counts as a ref, so the temporary one lies elsewhere.
        ref = self.folder / "refs" / safe_path(revision)
        write_atomically(ref, commit.encode(), folder=self.folder)

    def cached_commit(self, revision: str) -> str | None:
        """Return the commit of `revision` as far as this cache knows it."""
        return revision if is_commit(revision) else self.read_ref(revision)

    def mark_missing(self, commit: str, path: str) -> None:
        """Record that `commit` has no file `path`."""
        marker = self.folder / ".no_exist" / commit / safe_path(path)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()

    def link(self, etag: str, pointers: Sequence[Path], *, new_blob: bool) -> None:
        """Make each of `pointers` the content of blob `etag`.

        Where symlinks are not supported or not wanted, a new blob is moved to its last
        pointer, and one that others may refer to is copied.
        """
        blob = self.blob(etag)
        for count_left, pointer in zip(range(len(pointers) - 1, -1, -1), pointers, strict=True):
            if os.path.exists(pointer) and not new_blob:
                continue
            pointer.parent.mkdir(parents=True, exist_ok=True)
            if _symlink(blob, pointer):
                continue
            if new_blob and count_left == 0 and not blob.is_symlink():
                os.replace(blob, pointer)
            else:
                import shutil  # rarely needed, and slow to load

                with replace_atomically(pointer, folder=self.blobs, prefix=etag) as copy:
                    shutil.copyfile(blob, copy)


def _symlink(target: Path, link: Path) -> bool:
    """Replace `link` by a relative symlink to `target`; False if that is not possible here."""
    from huggingface_hub import constants

    if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):  # since 1.9
        return False
    try:
        with replace_atomically(link, folder=target.parent, prefix=target.name) as temporary:
            os.symlink(os.path.relpath(target, link.parent), temporary)
    except OSError as error:
        if error.errno in _NO_SYMLINKS:
            return False
        raise
    return True


def create_cachedir_tag(folder: Path) -> None:
    """Tell backup tools that `folder`, which exists, is a cache. Failure does not matter.

    Left out for huggingface_hub before 1.9, whose cache scan takes the file for a damaged
    repository.
    """
    from huggingface_hub import constants

    if not hasattr(constants, "HF_HUB_DISABLE_SYMLINKS"):  # came with the same version
        return
    with suppress(OSError), open(folder / "CACHEDIR.TAG", "x") as file:
        file.write(_CACHEDIR_TAG)


def read_tree(path: Path) -> list[Entry] | None:
    """Return the files of the tree listing cached at `path`, None if there is no usable one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format_version"] != _TREE_VERSION:
            return None
        entries = [_entry_from_json(name, info) for name, info in data["files"].items()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("ignoring the damaged tree listing %s: %s", path, error)
        return None
    return entries if _is_cacheable(entries) else None


def write_tree(path: Path, entries: Iterable[Entry]) -> None:
    """Cache a tree listing at `path`; a failure is logged, since it costs only a request."""
    entries = sorted(entries, key=lambda entry: entry.path)
    if not _is_cacheable(entries):
        return
    data = {
        "format_version": _TREE_VERSION,
        "files": {entry.path: _entry_to_json(entry) for entry in entries},
    }
    try:
        write_atomically(path, json.dumps(data, indent=1).encode())
    except OSError as error:
        logger.warning("cannot cache the tree listing %s: %s", path, error)


def _is_cacheable(entries: Iterable[Entry]) -> bool:
    """The Hub masks Xet hashes at times (``***…``); such a listing is not kept."""
    hashes = (entry.properties.get("xet-hash") for entry in entries)
    return all(value is None or _XET_HASH.fullmatch(value) for value in hashes)


def _entry_from_json(path: str, info: dict[str, Any]) -> Entry:
    properties = {"blob-id": str(info["blob_id"])}
    sha256 = info.get("lfs_sha256")
    if sha256 is not None:
        properties["lfs-sha256"] = str(sha256)
    if info.get("xet_hash") is not None:
        properties["xet-hash"] = str(info["xet_hash"])
    if sha256 is None:
        digest, size = Digest("git-sha1", str(info["blob_id"])), info["size"]
    else:
        digest, size = Digest("sha256", str(sha256)), info["lfs_size"]
    return Entry(path=safe_path(path), size=int(size), digest=digest, properties=properties)


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    info: dict[str, Any] = {"size": entry.size, "blob_id": entry.properties.get("blob-id")}
    if sha256 := entry.properties.get("lfs-sha256"):
        info |= {"lfs_sha256": sha256, "lfs_size": entry.size}
    if xet_hash := entry.properties.get("xet-hash"):
        info["xet_hash"] = xet_hash
    return info
