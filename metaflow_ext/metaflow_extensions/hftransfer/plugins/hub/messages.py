"""The lines that a load or a snapshot_download writes to the log of its task.

Most of them are those of metaflow-checkpoint, which users know and search for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from metaflow_extensions.hftransfer.plugins.hub.transfer import TransferSummary


class Messages:
    """The lines of one request, which starts now.

    Parameters
    ----------
    log : callable
        Takes one line.
    repo_id : str
    path : str, optional
        The folder of the files; None if they go to the datastore only.
    """

    def __init__(self, log: Callable[[str], None], repo_id: str, path: str | None) -> None:
        self._log = log
        self._repo_id = repo_id
        self._path = path
        self._started = time.monotonic()
        self._downloaded = self._started

    def loading(self, key: str) -> None:
        """The entry `key` is about to be loaded from the datastore."""
        self._log(f"Loading model from datastore to {self._path}. Model being loaded: {key}")

    def downloading(self, location: str) -> None:
        """The repository is about to be downloaded into the entry at `location`."""
        repo_id = self._repo_id
        if self._path is None:
            self._log(f"Downloading {repo_id} from huggingface to path {location}")
            return
        self._log(f"Model {repo_id} not found in datastore, downloading from HuggingFace Hub")
        self._log(f"Downloading {repo_id} from huggingface to path {self._path}")
        self._log(f"Caching {repo_id} in the datastore")

    def downloaded(self) -> None:
        """All files were downloaded, and the entry is about to be published."""
        if self._path is None:
            self._log(
                f"Downloaded {self._repo_id} from huggingface in {_since(self._started)} seconds. "
                "Saving checkpoint to datastore."
            )
        self._downloaded = time.monotonic()

    def stored(self, key: str) -> None:
        """The entry `key` was published."""
        if self._path is None:
            self._log(
                f"huggingface checkpoint for {self._repo_id} saved to datastore in "
                f"{_since(self._downloaded)} seconds"
            )
        else:
            self._log(f"Cached {self._repo_id} in the datastore with the key {key}")

    def done(self, key: str, *, cache_hit: bool, summary: TransferSummary | None) -> None:
        """The request is satisfied, by the entry `key`."""
        seconds = _since(self._started)
        if self._path is not None:
            origin = "the datastore" if cache_hit else "huggingface"
            self._log(
                f"Loaded {self._repo_id} from {origin} to {self._path} in {seconds} seconds "
                f"({summary})"
            )
        elif cache_hit:
            self._log(
                f"Found {self._repo_id} in the datastore in {seconds} seconds with the key {key}"
            )


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.2f}"
