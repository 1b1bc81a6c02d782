"""From a request to files: out of the datastore if they are there, else from the Hub.

On a miss the engine reads the Hub once and writes the datastore and, for a load, the
local path in the same pass; the entry is published after its last byte. All bytes are
moved by the engine (`hftransfer.Client`), imported when the first are.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from .repo_entry import choose_entry, entry_metadata, entry_name
from .repo_request import HuggingfaceHubError, RepoRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from hftransfer import Report

    from .incumbent import EntryStore, NewEntry

# Bookkeeping of huggingface_hub, which metaflow-checkpoint stores along with the files.
_BOOKKEEPING = (".cache/huggingface/*", ".huggingface/*")


class RepoCache:
    """Repositories of one task.

    Parameters
    ----------
    store : EntryStore
        The datastore's entries.
    cache_scope : str
        ``checkpoint``, ``flow`` or ``global``.
    log : callable
        Takes one line for the task's log.
    """

    def __init__(self, store: EntryStore, cache_scope: str, log: Callable[[str], None]) -> None:
        self._store = store
        self._cache_scope = cache_scope
        self._log = log

    def name(self, request: RepoRequest) -> str:
        """Return the name of the entry for `request`."""
        return entry_name(request, self._cache_scope)

    def reference(self, request: RepoRequest) -> tuple[dict[str, Any], bool]:
        """Make sure that the datastore holds `request`.

        Returns
        -------
        tuple
            The reference, and whether it was there already.
        """
        started = time.monotonic()
        found = self._find(request)
        if found is not None:
            self._log(
                f"Found {request.repo_id} in the datastore in {_since(started)} seconds "
                f"with the key {found['key']}"
            )
            return found, True
        with _terminable(), self._store.new_entry(self.name(request)) as entry:
            self._log(f"Downloading {request.repo_id} from huggingface to path {entry.location}")
            report = self._download(request, [entry.location])
            self._log(
                f"Downloaded {request.repo_id} from huggingface in {_since(started)} seconds. "
                "Saving checkpoint to datastore."
            )
            saving = time.monotonic()
            reference = self._publish(entry, request, report, with_arguments=False)
        self._log(
            f"huggingface checkpoint for {request.repo_id} saved to datastore in "
            f"{_since(saving)} seconds"
        )
        return reference, False

    def load(self, request: RepoRequest, path: str) -> tuple[dict[str, Any], bool]:
        """Bring the files of `request` to the folder `path`, and into the datastore if need be.

        Other files in `path` are neither touched nor stored.

        Returns
        -------
        tuple
            The reference, and whether the files came from the datastore.
        """
        found = self._find(request)
        started = time.monotonic()
        report: Report | None
        if found is None:
            self._log(
                f"Model {request.repo_id} not found in datastore, downloading from HuggingFace Hub"
            )
            reference, report = self._download_and_keep(request, path)
        else:
            reference = found
            self._log(f"Loading model from datastore to {path}. Model being loaded: {found['key']}")
            report = self._load_entry(found, path)
        came_from = "huggingface" if found is None else "the datastore"
        self._log(
            f"Loaded {request.repo_id} from {came_from} to {path} in {_since(started)} seconds"
            + _amount(report)
        )
        return reference, found is not None

    def _find(self, request: RepoRequest) -> dict[str, Any] | None:
        if request.force_download:
            return None
        found = choose_entry(self._store.find(self.name(request)), request, self._cache_scope)
        if found is None and request.local_files_only:
            raise HuggingfaceHubError(
                f"{request.repo_id} is not in the datastore, and local_files_only=True forbids "
                "to download it."
            )
        return found

    def _download_and_keep(self, request: RepoRequest, path: str) -> tuple[dict[str, Any], Report]:
        with _terminable(), self._store.new_entry(self.name(request)) as entry:
            self._log(f"Downloading {request.repo_id} from huggingface to path {path}")
            self._log(f"Caching {request.repo_id} in the datastore")
            report = self._download(request, [os.path.abspath(path), entry.location])
            reference = self._publish(entry, request, report, with_arguments=True)
        self._log(f"Cached {request.repo_id} in the datastore with the key {reference['key']}")
        return reference, report

    def _load_entry(self, reference: dict[str, Any], path: str) -> Report | None:
        source = self._store.source_of(reference)
        if source is None:
            self._store.load(reference, path)
            return None
        return _copy(
            source + "/",
            [os.path.abspath(path)],
            s3=self._store.s3_settings,
            ignore_patterns=_BOOKKEEPING,
        )

    def _download(self, request: RepoRequest, destinations: list[str]) -> Report:
        report = _copy(
            request.source,
            destinations,
            hub=dict(request.hub),
            s3=self._store.s3_settings,
            allow_patterns=request.allow_patterns,
            ignore_patterns=request.ignore_patterns,
        )
        if not report.manifest.files:
            raise HuggingfaceHubError(
                f"No file of {request.repo_id} is selected by allow_patterns="
                f"{request.allow_patterns!r}, ignore_patterns={request.ignore_patterns!r}."
            )
        return report

    def _publish(
        self, entry: NewEntry, request: RepoRequest, report: Report, *, with_arguments: bool
    ) -> dict[str, Any]:
        manifest = report.manifest
        return self._store.publish(
            entry,
            sum(file.size for file in manifest.files.values()),
            entry_metadata(request, manifest.commit, with_arguments=with_arguments),
        )


def _copy(
    source: str,
    destinations: list[str],
    *,
    s3: dict[str, Any],
    hub: dict[str, Any] | None = None,
    **patterns: Any,
) -> Report:
    import dataclasses

    import hftransfer
    from hftransfer.options import HubOptions, S3Options

    options = dataclasses.replace(
        hftransfer.TransferOptions.from_env(), hub=HubOptions(**(hub or {})), s3=S3Options(**s3)
    )
    with hftransfer.Client(options) as client:
        return client.copy(source, destinations, **patterns)


def _terminable() -> AbstractContextManager[None]:
    """Have SIGTERM unwind the block, so that the entry being written is taken back."""
    from hftransfer.sync import terminable

    return terminable()


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.2f}"


def _amount(report: Report | None) -> str:
    if report is None:
        return ""
    there = f", {report.skipped} of them there already" if report.skipped else ""
    return f" ({report.files + report.skipped} files{there}, {report.bytes / 1e6:.1f} MB moved)"
