"""The validated arguments of a download, and the paths that follow from them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from hftransfer._hub_compat.cache import CachedRepo, is_commit
from hftransfer._hub_compat.local_dir import LocalDir
from hftransfer.errors import TransferError
from hftransfer.locations import HubLocation
from hftransfer.options import HubOptions, Timeouts, TransferOptions

__all__ = ("DownloadRequest", "ignoring_removed_arguments", "is_offline")

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_REMOVED_ARGUMENTS = ("proxies", "resume_download", "force_filename", "local_dir_use_symlinks")
_REPO_TYPES = ("model", "dataset", "space", "kernel")
_DEFAULT_ETAG_TIMEOUT = 10
_DEFAULT_MAX_WORKERS = 8


def ignoring_removed_arguments(
    function: Callable[P, Awaitable[T]],
) -> Callable[P, Awaitable[T]]:
    """Accept arguments that huggingface_hub has removed: each gives a warning and has no effect."""

    @wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in _REMOVED_ARGUMENTS:
            if kwargs.pop(name, None) is not None:
                warnings.warn(
                    f"{function.__name__}: the argument {name!r} no longer exists and is ignored",
                    UserWarning,
                    stacklevel=2,
                )
        return await function(*args, **kwargs)

    return wrapper


def is_offline() -> bool:
    """Return True if ``HF_HUB_OFFLINE`` forbids requests. Not cached: callers may change it."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@dataclass(frozen=True, kw_only=True)
class DownloadRequest:
    """The validated arguments of one call of `snapshot_download` or `hf_hub_download`."""

    repo: CachedRepo
    local_dir: LocalDir | None
    """Where files are written; None for the cache."""
    revision: str
    """As the caller gave it: a branch, tag or commit. Default ``main``."""
    pinned_commit: str | None
    """The commit, if `revision` is one or carries one; None if the Hub has to resolve it."""
    updates_ref: bool
    """Whether to record the commit of `revision` in the cache, below ``refs/``."""
    force: bool
    """Download files that are already present."""
    options: TransferOptions

    @classmethod
    def from_arguments(
        cls,
        *,
        repo_id: str,
        repo_type: str | None,
        revision: str | None,
        cache_dir: str | Path | None,
        local_dir: str | Path | None,
        library_name: str | None,
        library_version: str | None,
        user_agent: Mapping[str, str] | str | None,
        etag_timeout: float,
        force_download: bool,
        token: bool | str | None,
        headers: Mapping[str, str] | None,
        endpoint: str | None,
        max_workers: int = _DEFAULT_MAX_WORKERS,
    ) -> DownloadRequest:
        """Validate the arguments of a download. Blocks: it resolves paths.

        Raises:
            HFValidationError: if `repo_id` is not a valid name of a repository.
            ValueError: if `repo_type` is unknown or another value is out of range.
        """
        from huggingface_hub import constants
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(repo_id)
        if (repo_type or "model") not in _REPO_TYPES:
            raise ValueError(f"Invalid repo type: {repo_type}. Accepted are: {_REPO_TYPES}")
        # A `ResolvedRevision` of huggingface_hub >= 1.26 is a str that carries its commit, which
        # is recorded below refs/ already.
        resolved: str | None = getattr(revision, "resolved", None)
        name = str(revision or constants.DEFAULT_REVISION)
        hub = HubOptions(
            endpoint=endpoint,
            token=token,
            headers={**(headers or {}), "X-HF-Download-Counter": "1"},
            library_name=library_name,
            library_version=library_version,
            user_agent=user_agent,
        )
        cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
        folder = None if local_dir is None else Path(local_dir).expanduser().resolve()
        return cls(
            repo=CachedRepo(cache, repo_type or "model", repo_id),
            local_dir=None if folder is None else LocalDir(folder),
            revision=name,
            pinned_commit=resolved or (name if is_commit(name) else None),
            updates_ref=resolved is None,
            force=force_download,
            options=_options(hub, etag_timeout=etag_timeout, max_workers=max_workers),
        )

    def location(self, commit: str | None = None) -> HubLocation:
        """Return the repository at `commit`. Default: at the pinned commit, else the revision."""
        revision = commit or self.pinned_commit or self.revision
        return HubLocation(self.repo.repo_id, self.repo.repo_type, revision)

    @property
    def cached_commit(self) -> str | None:
        """The pinned commit, else the one last recorded for the revision; None if unknown.

        Reading it blocks.
        """
        return self.pinned_commit or self.repo.read_ref(self.revision)

    def tree_path(self, commit: str) -> Path:
        """Return the path of the cached listing of `commit`."""
        return (self.local_dir or self.repo).tree(commit)

    def file(self, commit: str, path: str) -> Path:
        """Return the path of the file `path` of `commit` on the disk, whether it exists or not."""
        if self.local_dir is not None:
            return self.local_dir.file(path)
        return self.repo.pointer(commit, path)

    def record_ref(self, commit: str) -> None:
        """Record in the cache that the revision is `commit`. Blocks.

        A failure is only logged: without the record the next call needs one more request.
        """
        if not self.updates_ref:
            return
        try:
            self.repo.folder.mkdir(parents=True, exist_ok=True)
            self.repo.write_ref(self.revision, commit)
        except (OSError, TransferError) as error:
            _logger.warning("cannot record refs/%s: %s", self.revision, error)


def _options(hub: HubOptions, *, etag_timeout: float, max_workers: int) -> TransferOptions:
    """Return the options of the environment, changed by the arguments of the download."""
    from huggingface_hub import constants

    if constants.HF_HUB_ETAG_TIMEOUT != _DEFAULT_ETAG_TIMEOUT:
        # As in huggingface_hub, the environment has precedence over the argument.
        etag_timeout = constants.HF_HUB_ETAG_TIMEOUT
    options = TransferOptions.from_env()
    # huggingface_hub's default of 8 threads is no choice of the caller; another number is.
    is_chosen = max_workers != _DEFAULT_MAX_WORKERS
    return replace(
        options,
        connections=max_workers if is_chosen else options.connections,
        timeouts=Timeouts(
            connect=min(options.timeouts.connect, etag_timeout), read=options.timeouts.read
        ),
        hub=hub,
    )
