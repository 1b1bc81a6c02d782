"""Repositories of the test Hub: commits, references, renames and read permissions."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from hftransfer.testing._content import DEFAULT_LFS_THRESHOLD, Blob, BlobStore, Content

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RepoType = Literal["model", "dataset", "space"]
REPO_TYPES: tuple[RepoType, ...] = ("model", "dataset", "space")


@dataclass(frozen=True)
class TreeEntry:
    """One row of a tree listing; `blob` is `None` for a directory."""

    path: str
    blob: Blob | None


@dataclass(frozen=True)
class Commit:
    """One commit of a repository: its id (40 hex digits) and its files by path."""

    id: str
    files: Mapping[str, Blob]

    @cached_property
    def tree(self) -> tuple[TreeEntry, ...]:
        """All files and all directories above them, sorted by path."""
        folders = {
            str(parent)
            for path in self.files
            for parent in PurePosixPath(path).parents
            if str(parent) not in (".", "/")
        }
        entries = [TreeEntry(path, blob) for path, blob in self.files.items()]
        entries += [TreeEntry(folder, None) for folder in folders]
        return tuple(sorted(entries, key=lambda entry: entry.path))


class Repo:
    """One repository of a `HubServer`; made by `HubServer.create_repo`.

    Its settings are plain attributes and may be changed while the server runs.

    Attributes:
        repo_id: `namespace/name`, or a `name` without namespace.
        repo_type: `"model"`, `"dataset"` or `"space"`.
        private: respond that the repository does not exist to requests without a token that may
            read it.
        gated: deny files, but not metadata, to requests without a token that may read it.
        disabled: respond 403 "Access to this resource is disabled." to every request.
        direct: respond to `resolve` with the file itself (200) instead of a redirect.
        lfs_threshold: size in bytes from which a newly committed file is an LFS file.
    """

    def __init__(
        self,
        repo_id: str,
        repo_type: RepoType,
        store: BlobStore,
        *,
        private: bool = False,
        gated: bool = False,
        direct: bool = False,
        lfs_threshold: int = DEFAULT_LFS_THRESHOLD,
    ) -> None:
        self.repo_id = repo_id
        self.repo_type = repo_type
        self.private = private
        self.gated = gated
        self.disabled = False
        self.direct = direct
        self.lfs_threshold = lfs_threshold
        # The CDN identifies a repository by an id that does not change when it is renamed.
        self.storage_id = hashlib.sha256(f"{repo_type}/{repo_id}".encode()).hexdigest()[:24]
        self._store = store
        self._lock = threading.Lock()
        self._commits: dict[str, Commit] = {}
        self._branches: dict[str, str] = {}
        self._tags: dict[str, str] = {}

    @property
    def head(self) -> str:
        """Commit id of `main`."""
        return self.find("main").id

    @property
    def branches(self) -> dict[str, str]:
        """Branch names and their commit ids."""
        with self._lock:
            return dict(self._branches)

    @property
    def tags(self) -> dict[str, str]:
        """Tag names and their commit ids."""
        with self._lock:
            return dict(self._tags)

    def find(self, revision: str) -> Commit:
        """Return the commit of a branch, a tag or a full commit id.

        Raises:
            KeyError: if there is no such revision.
        """
        with self._lock:
            commit_id = self._branches.get(revision) or self._tags.get(revision) or revision
            return self._commits[commit_id]

    def blob(self, path: str, *, revision: str = "main") -> Blob:
        """Return the stored file at `path`: its bytes, size and digests.

        Raises:
            KeyError: if there is no such revision, or no such file in it.
        """
        return self.find(revision).files[path]

    def commit(
        self,
        files: Mapping[str, Content] | None = None,
        *,
        revision: str = "main",
        delete: Iterable[str] = (),
    ) -> str:
        """Add a commit on top of a branch.

        Args:
            files: contents by repository path. Paths are not checked, so that clients can be
                tested with malicious ones such as `../x`.
            revision: the branch that the commit is added to.
            delete: paths that the commit removes.

        Returns:
            The id of the new commit, 40 hex digits. It depends only on the type and id of the
            repository and on its history.

        Raises:
            KeyError: if the branch, or a path of `delete`, does not exist.
            FileNotFoundError: if a content is a path without a file.
        """
        added = {
            path: self._store.add(path, content, lfs_threshold=self.lfs_threshold)
            for path, content in (files or {}).items()
        }
        with self._lock:
            parent = self._commits[self._branches[revision]]
            tree = dict(parent.files)
            for path in delete:
                del tree[path]
            return self._publish(revision, {**tree, **added}, parent.id)

    def create_branch(self, name: str, *, from_revision: str = "main") -> None:
        """Point the branch `name` (also a full name such as `refs/pr/1`) at a revision.

        Raises:
            KeyError: if there is no such revision.
        """
        commit_id = self.find(from_revision).id
        with self._lock:
            self._branches[name] = commit_id

    def create_tag(self, name: str, *, revision: str = "main") -> None:
        """Point the tag `name` at a revision.

        Raises:
            KeyError: if there is no such revision.
        """
        commit_id = self.find(revision).id
        with self._lock:
            self._tags[name] = commit_id

    def start(self, files: Mapping[str, Content]) -> None:
        """Create the first commit of `main`."""
        blobs = {
            path: self._store.add(path, content, lfs_threshold=self.lfs_threshold)
            for path, content in files.items()
        }
        with self._lock:
            self._publish("main", blobs, parent="")

    def _publish(self, branch: str, files: Mapping[str, Blob], parent: str) -> str:
        digest = hashlib.sha1(f"{self.storage_id}\0{parent}".encode(), usedforsecurity=False)
        for path in sorted(files):
            digest.update(f"\0{path}\0{files[path].sha256}".encode())
        commit_id = digest.hexdigest()
        self._commits[commit_id] = Commit(commit_id, dict(files))
        self._branches[branch] = commit_id
        return commit_id


class Repositories:
    """The repositories of one server, and the tokens that may read private and gated ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._repos: dict[tuple[str, str], Repo] = {}
        self._renamed: dict[tuple[str, str], str] = {}
        self._tokens: dict[str, frozenset[str] | None] = {}

    def add(self, repo: Repo) -> None:
        """Add `repo` under its id.

        Raises:
            ValueError: if the id is taken.
        """
        key = (repo.repo_type, repo.repo_id)
        with self._lock:
            if key in self._repos:
                raise ValueError(f"there is already a {repo.repo_type} {repo.repo_id!r}")
            self._renamed.pop(key, None)
            self._repos[key] = repo

    def get(self, repo_type: str, repo_id: str) -> Repo | None:
        """Return the repository that has this id at present, or `None`."""
        with self._lock:
            return self._repos.get((repo_type, repo_id))

    def new_name(self, repo_type: str, repo_id: str) -> str | None:
        """Return the present id of a repository that had the id `repo_id` before, or `None`."""
        with self._lock:
            return self._renamed.get((repo_type, repo_id))

    def rename(self, repo_type: str, old: str, new: str) -> None:
        """Change the id of a repository; `new_name` then returns it for the old id.

        Raises:
            KeyError: if there is no repository `old`.
            ValueError: if `new` is taken.
        """
        with self._lock:
            if (repo_type, new) in self._repos:
                raise ValueError(f"there is already a {repo_type} {new!r}")
            repo = self._repos.pop((repo_type, old))
            self._repos[repo_type, new] = repo
            for key, target in self._renamed.items():
                if key[0] == repo_type and target == old:
                    self._renamed[key] = new
            self._renamed.pop((repo_type, new), None)
            self._renamed[repo_type, old] = new
            repo.repo_id = new

    def allow(self, token: str, repos: Iterable[str] | None) -> None:
        """Permit `token` to read the given repositories, in addition to earlier ones, or all."""
        with self._lock:
            known = self._tokens.get(token, frozenset())
            if repos is None or known is None:
                self._tokens[token] = None
            else:
                self._tokens[token] = known | frozenset(repos)

    def knows(self, token: str) -> bool:
        """Return `True` if `token` is valid."""
        with self._lock:
            return token in self._tokens

    def may_read(self, token: str | None, repo: Repo) -> bool:
        """Return `True` if `token` may read `repo` if it is private or gated."""
        with self._lock:
            if token is None or token not in self._tokens:
                return False
            granted = self._tokens[token]
            return granted is None or repo.repo_id in granted


def folder_files(folder: Path) -> dict[str, Content]:
    """Return every file below `folder` by its relative POSIX path.

    Raises:
        NotADirectoryError: if `folder` is not a directory.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"not a folder: {folder}")
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
