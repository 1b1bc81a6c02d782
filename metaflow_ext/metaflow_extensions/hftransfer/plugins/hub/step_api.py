"""``current.huggingface_hub``: what the body of a step uses of the decorator."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    RepoRequest,
    ignored_arguments,
    parse_arguments,
)
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once
from metaflow_extensions.hftransfer.plugins.hub.step_errors import raising_step_errors
from metaflow_extensions.hftransfer.plugins.hub.task_dirs import TaskDir

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.hub.cache import RepoCache


class LoadedRepos(Mapping[str, str]):
    """Local paths of the repositories named in ``load=``.

    The key is the repository id. ``org/name@revision`` is the repository at a revision, as it
    was written in ``load=`` (``main`` where none was). A repository that is named twice is on
    disk twice: each copy has its key with the revision, and the id alone is the last one.
    """

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self._revisions: dict[str, str] = {}
        """Paths by id and revision; listed by this mapping only for ids that are named twice."""
        self._info: dict[str, dict[str, Any]] = {}

    @property
    def info(self) -> dict[str, dict[str, Any]]:
        """References of the loaded repositories, by the same keys.

        Besides the keys of a reference each has ``hf_kwargs`` (the request, without
        credentials), ``cache_hit`` and ``force_download``.
        """
        return self._info

    def __getitem__(self, repo_id: str) -> str:
        for paths in (self._paths, self._revisions):
            if repo_id in paths:
                return paths[repo_id]
        loaded = ", ".join(self._paths) or "nothing"
        raise KeyError(f"{repo_id} is not in load= of this step, which loaded: {loaded}")

    def __contains__(self, repo_id: object) -> bool:
        return repo_id in self._paths or repo_id in self._revisions

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def _add(
        self, request: RepoRequest, path: str, reference: dict[str, Any], cache_hit: bool
    ) -> None:
        name, revision = request.repo_id, _with_revision(request)
        info = {
            **reference,
            "hf_kwargs": {
                **request.arguments,
                "repo_id": request.repo_id,
                "repo_type": request.repo_type,
            },
            "cache_hit": cache_hit,
            "force_download": request.force_download,
        }
        if name in self._paths:
            # Named twice: from now on the first copy is also listed, under its revision.
            for known, known_path in self._revisions.items():
                if known_path == self._paths[name]:
                    self._paths.setdefault(known, known_path)
                    self._info.setdefault(known, self._info[name])
            self._paths[revision], self._info[revision] = path, info
        self._revisions[revision] = path
        self._paths[name], self._info[name] = path, info


def _parsed(arguments: Mapping[str, Any], path: str | None = None) -> RepoRequest:
    request = parse_arguments(arguments, path)
    if line := ignored_arguments([request]):
        log_once(line)
    return request


def _with_revision(request: RepoRequest) -> str:
    return f"{request.repo_id}@{request.revision or 'main'}"


class HuggingfaceHub:
    """Repositories of the Hugging Face Hub, stored in the datastore of the flow.

    Parameters
    ----------
    cache : RepoCache
        Finds, downloads and loads the files.
    task : str
        ``flow/run/step/task``, equal for all attempts of the task.
    temp_dir_root : str, optional
        The parent of temporary folders. Default: that of the `tempfile` module.
    """

    def __init__(self, cache: RepoCache, task: str, temp_dir_root: str | None) -> None:
        self._cache = cache
        self._task = task
        self._temp_dir_root = temp_dir_root
        self._loaded = LoadedRepos()
        self._dirs: list[TaskDir] = []
        self._numbers = itertools.count()
        self._is_complete = True
        """False if a load of the decorator's ``load=`` failed."""

    @property
    def loaded(self) -> LoadedRepos:
        """Local paths of the repositories named in ``load=``, by repository id."""
        return self._loaded

    def snapshot_download(self, **kwargs: Any) -> dict[str, Any]:
        """Make sure that the datastore has a repository, and return a reference to it.

        Nothing is left on the local disk; ``@model(load=...)`` in a later step loads
        the reference.

        Parameters
        ----------
        **kwargs : Any
            ``repo_id`` and any argument of ``huggingface_hub.snapshot_download``, such as
            ``revision``, ``allow_patterns``, ``ignore_patterns``, ``repo_type``, ``token``.
            With ``force_download=True`` the repository is downloaded and stored again.

        Returns
        -------
        dict
            The reference.

        Raises
        ------
        HuggingfaceHubError
            If an argument is unknown or has an impossible value.
        hftransfer.errors.TransferError
            If the Hub or the datastore cannot be used. It is also a MetaflowException and, if
            the Hub refused a request, huggingface_hub's class, such as RepositoryNotFoundError.
        """
        request = _parsed(kwargs)
        with raising_step_errors():
            reference, _ = self._cache.reference(request)
        return reference

    @contextmanager
    def load(
        self,
        repo_id: str | None = None,
        path: str | None = None,
        repo_type: str = "model",
        **kwargs: Any,
    ) -> Iterator[str]:
        """Load a repository to the local disk for the length of a ``with`` block.

        Parameters
        ----------
        repo_id : str
            The repository.
        path : str, optional
            The folder for the files, which stay there. Default: a temporary folder that is
            removed at the end of the block.
        repo_type : str, default "model"
            ``model``, ``dataset`` or ``space``.
        **kwargs : Any
            Further arguments of ``huggingface_hub.snapshot_download``.

        Yields
        ------
        str
            The path of the files.

        Raises
        ------
        HuggingfaceHubError
            If an argument is unknown or has an impossible value.
        hftransfer.errors.TransferError
            If the Hub or the datastore cannot be used. It is also a MetaflowException and, if
            the Hub refused a request, huggingface_hub's class, such as RepositoryNotFoundError.
        """
        request = _parsed({**kwargs, "repo_id": repo_id, "repo_type": repo_type}, path)
        if path is not None:
            with raising_step_errors():
                self._cache.load(request, path, "context manager")
            yield path
            return
        with self._temporary_dir(request) as folder:
            with raising_step_errors():
                self._cache.load(request, folder, "context manager")
            yield folder

    def _load_declared(self, requests: Iterable[RepoRequest]) -> None:
        """Load the repositories of the decorator's ``load=``, before the step starts."""
        self._is_complete = False
        for request in requests:
            path = request.path
            if path is None:
                self._dirs.append(self._temporary_dir(request))
                path = self._dirs[-1].name
            with raising_step_errors():
                reference, cache_hit = self._cache.load(request, path)
            self._loaded._add(request, path, reference, cache_hit)
        self._is_complete = True

    def _cleanup(self, *, may_retry: bool = False) -> None:
        """Remove the temporary folders, unless a retry resumes an unfinished load."""
        while self._dirs:
            folder = self._dirs.pop()
            if may_retry and not self._is_complete:
                folder.keep()
            else:
                folder.close()

    def _temporary_dir(self, request: RepoRequest) -> TaskDir:
        owner = f"{self._task}/{next(self._numbers)}/{request.source}"
        prefix = f"metaflow_hf_{self._cache.name(request)}_"
        return TaskDir(prefix, owner, self._temp_dir_root)
