"""What both download functions do first: check arguments and settle where things lie."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from hftransfer._hub_compat.cache import RepoCache, is_commit
from hftransfer._hub_compat.local_dir import LocalDir
from hftransfer.errors import TransferError
from hftransfer.locations import HubLocation
from hftransfer.options import HubOptions, Timeouts, TransferOptions

__all__ = ("HubRequest", "dropping_removed_arguments", "is_offline")

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_REMOVED = ("proxies", "resume_download", "force_filename", "local_dir_use_symlinks")
_REPO_TYPES = ("model", "dataset", "space", "kernel")
_DEFAULT_ETAG_TIMEOUT = 10
_DEFAULT_MAX_WORKERS = 8


def dropping_removed_arguments(
    function: Callable[P, Awaitable[T]],
) -> Callable[P, Awaitable[T]]:
    """Accept what huggingface_hub once had as arguments, with a warning and no effect."""

    @wraps(function)
    async def accepting(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in _REMOVED:
            if kwargs.pop(name, None) is not None:
                warnings.warn(
                    f"{function.__name__}: the argument {name!r} no longer exists and is ignored",
                    UserWarning,
                    stacklevel=2,
                )
        return await function(*args, **kwargs)

    return accepting


def is_offline() -> bool:
    """Return True if ``HF_HUB_OFFLINE`` forbids requests; asked anew for every call."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@dataclass(frozen=True, kw_only=True)
class HubRequest:
    """One checked call: what is wanted and where it goes."""

    repo: RepoCache
    local_dir: LocalDir | None
    revision: str
    """As the caller wrote it, ``main`` by default."""
    pinned: str | None
    """The commit, if the caller named one."""
    remembers_ref: bool
    """Whether ``refs/`` is to learn what `revision` is."""
    force: bool
    options: TransferOptions

    @classmethod
    def make(
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
    ) -> HubRequest:
        """Check the arguments of a download. Blocks: paths are resolved.

        Raises:
            HFValidationError: if `repo_id` is not the name of a repository.
            ValueError: if `repo_type` is unknown or another value out of range.
        """
        from huggingface_hub import constants
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(repo_id)
        if (repo_type or "model") not in _REPO_TYPES:
            raise ValueError(f"Invalid repo type: {repo_type}. Accepted are: {_REPO_TYPES}")
        # A revision resolved by huggingface_hub >= 1.26 knows its commit; refs/ has it already.
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
            repo=RepoCache(cache, repo_type or "model", repo_id),
            local_dir=None if folder is None else LocalDir(folder),
            revision=name,
            pinned=resolved or (name if is_commit(name) else None),
            remembers_ref=resolved is None,
            force=force_download,
            options=_options(hub, etag_timeout=etag_timeout, max_workers=max_workers),
        )

    def location(self, commit: str | None = None) -> HubLocation:
        """The repository at `commit`, by default at the revision that was asked for."""
        revision = commit or self.pinned or self.revision
        return HubLocation(self.repo.repo_id, self.repo.repo_type, revision)

    @property
    def cached_commit(self) -> str | None:
        """The commit that is wanted, as far as it is known without asking the Hub."""
        return self.pinned or self.repo.read_ref(self.revision)

    def tree_path(self, commit: str) -> Path:
        return (self.local_dir or self.repo).tree(commit)

    def file(self, commit: str, path: str) -> Path:
        """Where the file `path` of `commit` is, or will be."""
        if self.local_dir is not None:
            return self.local_dir.file(path)
        return self.repo.pointer(commit, path)

    def remember_ref(self, commit: str) -> None:
        """Record the commit of the revision in the cache; a failure costs nothing but a request."""
        if not self.remembers_ref:
            return
        try:
            self.repo.folder.mkdir(parents=True, exist_ok=True)
            self.repo.write_ref(self.revision, commit)
        except (OSError, TransferError) as error:
            logger.warning("cannot record refs/%s: %s", self.revision, error)


def _options(hub: HubOptions, *, etag_timeout: float, max_workers: int) -> TransferOptions:
    """Return the environment's options with what the arguments of a download change in them."""
    from huggingface_hub import constants

    if constants.HF_HUB_ETAG_TIMEOUT != _DEFAULT_ETAG_TIMEOUT:
        etag_timeout = constants.HF_HUB_ETAG_TIMEOUT  # the environment wins, as upstream
    options = TransferOptions.from_env()
    # Upstream's default of 8 threads says nothing about connections; any other number is a wish.
    wished = max_workers != _DEFAULT_MAX_WORKERS
    return replace(
        options,
        connections=max_workers if wished else options.connections,
        timeouts=Timeouts(
            connect=min(options.timeouts.connect, etag_timeout), read=options.timeouts.read
        ),
        hub=hub,
    )
