"""``current.huggingface_hub``: what a step sees of the decorator."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .repo_request import RepoRequest, parse_arguments

if TYPE_CHECKING:
    from .repo_cache import RepoCache


class LoadedRepos(Mapping[str, str]):
    """Local paths of the repositories named in ``load=``, by repository id.

    A repository that is named twice is on disk twice; the mapping has the path of the
    last one, so give both a path of their own.
    """

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self._info: dict[str, dict[str, Any]] = {}

    @property
    def info(self) -> dict[str, dict[str, Any]]:
        """References of the loaded repositories, by repository id.

        Besides the keys of a reference each has ``hf_kwargs`` (what was asked for, without
        credentials), ``cache_hit`` and ``force_download``.
        """
        return self._info

    def __getitem__(self, repo_id: str) -> str:
        try:
            return self._paths[repo_id]
        except KeyError:
            loaded = ", ".join(self._paths) or "nothing"
            raise KeyError(f"{repo_id} is not among load= of this step ({loaded})") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def _add(
        self, request: RepoRequest, path: str, reference: dict[str, Any], cache_hit: bool
    ) -> None:
        self._paths[request.repo_id] = path
        self._info[request.repo_id] = {
            **reference,
            "hf_kwargs": {
                **request.arguments,
                "repo_id": request.repo_id,
                "repo_type": request.repo_type,
            },
            "cache_hit": cache_hit,
            "force_download": request.force_download,
        }


class HuggingfaceHub:
    """Repositories of the Hugging Face Hub, kept in the datastore of the flow.

    Parameters
    ----------
    cache : RepoCache
        Finds and moves the files.
    temp_dir_root : str, optional
        Where temporary folders go. Default: that of the `tempfile` module.
    """

    def __init__(self, cache: RepoCache, temp_dir_root: str | None) -> None:
        self._cache = cache
        self._temp_dir_root = temp_dir_root
        self._loaded = LoadedRepos()
        self._folders: list[tempfile.TemporaryDirectory[str]] = []

    @property
    def loaded(self) -> LoadedRepos:
        """Local paths of the repositories named in ``load=``, by repository id."""
        return self._loaded

    def snapshot_download(self, **kwargs: Any) -> dict[str, Any]:
        """Make sure that the datastore holds a repository, and return a reference to it.

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
            If the Hub or the datastore cannot be used.
        """
        reference, _ = self._cache.reference(parse_arguments(kwargs))
        return reference

    @contextmanager
    def load(
        self,
        repo_id: str | None = None,
        path: str | None = None,
        repo_type: str = "model",
        **kwargs: Any,
    ) -> Iterator[str]:
        """Have a repository on the local disk inside a ``with`` block.

        Parameters
        ----------
        repo_id : str
            The repository.
        path : str, optional
            Where the files go, and stay. Default: a temporary folder, removed with the block.
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
            If the Hub or the datastore cannot be used.
        """
        request = parse_arguments({**kwargs, "repo_id": repo_id, "repo_type": repo_type}, path)
        if path is not None:
            self._cache.load(request, path)
            yield path
            return
        with self._temporary_folder(request) as folder:
            self._cache.load(request, folder)
            yield folder

    def _load_declared(self, requests: Iterable[RepoRequest]) -> None:
        """Load what the decorator's ``load=`` names, before the step starts."""
        for request in requests:
            path = request.path
            if path is None:
                self._folders.append(self._temporary_folder(request))
                path = self._folders[-1].name
            reference, cache_hit = self._cache.load(request, path)
            self._loaded._add(request, path, reference, cache_hit)

    def _cleanup(self) -> None:
        """Remove the temporary folders."""
        while self._folders:
            self._folders.pop().cleanup()

    def _temporary_folder(self, request: RepoRequest) -> tempfile.TemporaryDirectory[str]:
        if self._temp_dir_root is not None:
            os.makedirs(self._temp_dir_root, exist_ok=True)
        return tempfile.TemporaryDirectory(
            prefix=f"metaflow_hf_{self._cache.name(request)}_", dir=self._temp_dir_root
        )
