"""Layout of huggingface_hub's cache: blobs, snapshots, refs; `tree` has the cached listings.

::

    <cache>/CACHEDIR.TAG
    <cache>/.locks/models--org--name/<etag>.lock
    <cache>/models--org--name/
        blobs/<etag>                      content; the etag is its sha256 or its git blob id
        snapshots/<commit>/<path>         relative symlink to ../../blobs/<etag>
        refs/<revision>                   the commit, 40 characters
        trees/<commit>.json               all files of the commit with size and digests
        .no_exist/<commit>/<path>         empty: the commit has no such file

The layout is huggingface_hub's (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
Processes with hftransfer and with several versions of huggingface_hub may use one cache at the
same time. Therefore every file gets its final name by a rename, when it is complete, and an
existing file is never opened for writing: a blob may be a symlink into a store that several
repositories share. Unfinished files are named ``*.incomplete`` and are in ``blobs/``, where
``hf cache prune`` removes them.

Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hftransfer._io.atomic_write import (
    copy_atomically,
    create_if_missing,
    link_atomically,
    move_file,
    write_atomically,
)
from hftransfer._io.destination_folders import DestinationFolders
from hftransfer.errors import LocationError
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry

__all__ = (
    "CachedRepo",
    "content_etag",
    "create_cachedir_tag",
    "is_commit",
)

_logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Marks a folder as a cache, which backup tools leave out: https://bford.info/cachedir/
_CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This directory is a cache of files of the Hugging Face Hub.\n"
    "# See https://bford.info/cachedir/ for what this file means.\n"
)
# Error numbers of `os.symlink` on file systems without symlinks.
_SYMLINKS_UNSUPPORTED = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
)


def is_commit(revision: str) -> bool:
    """Return True if `revision` is a full commit id, which always names the same content."""
    return _COMMIT.fullmatch(revision) is not None


def content_etag(entry: Entry) -> str:
    """Return the name of the blob of `entry`: its digest, 40 or 64 hexadecimal digits.

    Raises:
        LocationError: if the digest has another form, which might not be a safe file name.
    """
    digest = entry.digest
    if digest is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest.value):
        raise LocationError(f"the Hub returned no valid digest for {entry.path!r}")
    return digest.value


@dataclass(frozen=True)
class CachedRepo:
    """The paths of one repository in a cache, and its refs and links.

    Args:
        root: the folder of the cache, absolute.
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
        """Return the path of the file `path` of a snapshot.

        Raises:
            LocationError: if `path` would leave the snapshot.
        """
        return self.snapshot(commit) / safe_path(path)

    def tree(self, commit: str) -> Path:
        return self.folder / "trees" / f"{commit}.json"

    def read_ref(self, revision: str) -> str | None:
        """Return the commit that was last recorded for `revision`; None if none is."""
        try:
            commit = (self.folder / "refs" / safe_path(revision)).read_text().strip()
        except (OSError, LocationError):
            return None
        return commit if is_commit(commit) else None

    def write_ref(self, revision: str, commit: str) -> None:
        """Record that `revision` is `commit` now. Nothing is recorded for a commit."""
        if revision == commit or self.read_ref(revision) == commit:
            return
        # Every file below refs/ counts as a ref: the temporary file must be elsewhere.
        ref = self.folder / "refs" / safe_path(revision)
        write_atomically(ref, commit.encode(), folder=self.folder)

    def record_missing(self, commit: str, path: str) -> None:
        """Record that `commit` has no file `path`."""
        if not is_commit(commit):
            return  # from a response header, and not a safe name of a folder
        root = self.folder / ".no_exist" / commit
        marker = root / safe_path(path)
        DestinationFolders(root).create(marker.parent)
        create_if_missing(marker, b"")

    def link(
        self,
        etag: str,
        pointers: Sequence[Path],
        *,
        new_blob: bool,
        create_folder: Callable[[Path], None],
    ) -> None:
        """Make each of `pointers` a relative symlink to the blob `etag`.

        Where symlinks are not supported or disabled, the pointers become files: copies of the
        blob, except that a new blob, to which no other snapshot refers, is moved to the last one.

        Args:
            etag: of an existing blob.
            pointers: paths in snapshots. Existing ones are kept unless the blob is new.
            new_blob: True if the blob was written for these pointers.
            create_folder: creates the folder of a pointer.
        """
        blob = self.blob(etag)
        for pointer in pointers:
            if not new_blob and os.path.exists(pointer):
                continue
            create_folder(pointer.parent)
            if _symlink(blob, pointer):
                continue
            if new_blob and pointer is pointers[-1] and not blob.is_symlink():
                move_file(blob, pointer)
            else:
                copy_atomically(blob, pointer, folder=self.blobs, prefix=etag)


def _symlink(target: Path, link: Path) -> bool:
    """Replace `link` by a relative symlink to `target`; return False if symlinks cannot be used."""
    from huggingface_hub import constants

    if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):  # attribute exists since 1.9
        return False
    content = os.path.relpath(target, link.parent)
    try:
        link_atomically(content, link, folder=target.parent, prefix=target.name)
    except OSError as error:
        if error.errno in _SYMLINKS_UNSUPPORTED:
            return False
        raise
    return True


def create_cachedir_tag(folder: Path) -> None:
    """Mark the existing `folder` as a cache for backup tools; ignore a failure.

    Nothing is written for huggingface_hub before 1.9: its cache scan reports the file as a
    damaged repository.
    """
    from huggingface_hub import constants

    if not hasattr(constants, "HF_HUB_DISABLE_SYMLINKS"):  # also new in 1.9
        return
    with suppress(OSError):
        create_if_missing(folder / "CACHEDIR.TAG", _CACHEDIR_TAG.encode())
