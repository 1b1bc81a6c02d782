"""``current.huggingface_hub``: what the body of a step uses of the decorator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.load_names import aliases, listed_names
from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    RepoRequest,
    ignored_arguments,
    parse_arguments,
)
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once
from metaflow_extensions.hftransfer.plugins.hub.step_errors import raising_step_errors
from metaflow_extensions.hftransfer.plugins.hub.task_dirs import PREFIX, TaskDir

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.hub.cache import RepoCache


class LoadedRepos(Mapping[str, str]):
    """Local paths of the repositories named in ``load=``.

    The key is the repository id. Where that is named more than once, it is the last of the loads,
    and each of them has a key with the parts in which they differ:
    ``[models/|datasets/|spaces/]org/name[@revision][[patterns]][:path]``, such as
    ``datasets/org/data``, ``org/model@v2``, ``org/model[*.json]``. A key may have more parts than
    are needed. See `load_names`.
    """

    def __init__(self, requests: Sequence[RepoRequest] = ()) -> None:
        self._names = dict(zip(map(id, requests), listed_names(requests), strict=True))
        self._paths: dict[str, str] = {}
        """By all names."""
        self._info: dict[str, dict[str, Any]] = {}

    @property
    def info(self) -> dict[str, dict[str, Any]]:
        """References of the loaded repositories, by the same keys.

        Besides the keys of a reference each has ``hf_kwargs`` (the request, without
        credentials), ``cache_hit`` and ``force_download``.
        """
        return self._info

    def __getitem__(self, repo_id: str) -> str:
        if repo_id in self._paths:
            return self._paths[repo_id]
        loaded = ", ".join(self._info) or "nothing"
        raise KeyError(f"{repo_id} is not in load= of this step, which loaded: {loaded}")

    def __contains__(self, repo_id: object) -> bool:
        return repo_id in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._info)

    def __len__(self) -> int:
        return len(self._info)

    def _add(
        self, request: RepoRequest, path: str, reference: dict[str, Any], cache_hit: bool
    ) -> None:
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
        listed = self._names.get(id(request), [request.repo_id])
        self._info.update(dict.fromkeys(listed, info))
        self._paths.update(dict.fromkeys([*aliases(request), *listed], path))


def _parsed(arguments: Mapping[str, Any], path: str | None = None) -> RepoRequest:
    request = parse_arguments(arguments, path)
    if line := ignored_arguments([request]):
        log_once(line)
    return request


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
    requests : sequence of RepoRequest, optional
        Those of the decorator's ``load=``. Default: none.
    """

    def __init__(
        self,
        cache: RepoCache,
        task: str,
        temp_dir_root: str | None,
        requests: Sequence[RepoRequest] = (),
    ) -> None:
        self._cache = cache
        self._task = task
        self._temp_dir_root = temp_dir_root
        self._loaded = LoadedRepos(requests)
        self._requests = tuple(requests)
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

    def _load_declared(self) -> None:
        """Load the repositories of the decorator's ``load=``, before the step starts."""
        self._is_complete = False
        for request in self._requests:
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
        prefix = f"{PREFIX}{self._cache.name(request)}_"
        content = f"{request.source} {sorted(request.arguments.items())}"
        return TaskDir(prefix, owner, self._temp_dir_root, content)
