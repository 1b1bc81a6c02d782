"""The lines that a request writes to the log of its task.

One says what begins and from where, another one what came, how long it took and how it was
verified. A request that transfers nothing has one line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from metaflow_extensions.hftransfer.plugins.hub.access import HUB, Access, TransferSummary


class Messages:
    """The lines of one request, which starts now.

    Parameters
    ----------
    log : callable
        Takes one line.
    access : Access
        The request.
    """

    def __init__(self, log: Callable[[str], None], access: Access) -> None:
        self._log = log
        self._access = access
        self._what = access.request.label
        self._started = time.monotonic()

    def begins(self, origin: str, *, stores: bool) -> None:
        """The transfer from `origin` is about to begin.

        Parameters
        ----------
        origin : str
            One of those of `access`.
        stores : bool
            True if the files also get an entry in the datastore.
        """
        path = self._access.path
        targets = [*([path] if path else []), *(["the datastore"] if stores else [])]
        self._access.origin = origin
        self._started = time.monotonic()
        verb = self._verb("Downloading", "Loading", "Copying")
        self._log(f"{verb} {self._what} from {origin} to {' and '.join(targets)}")

    @property
    def seconds(self) -> float:
        """The time since the transfer began."""
        return time.monotonic() - self._started

    def done(self, reference: dict[str, Any], summary: TransferSummary | None) -> None:
        """The request is satisfied, by the entry `reference`."""
        from hftransfer._core.units import format_size

        key = reference["key"]
        if summary is None:
            size = format_size(int(reference.get("size") or 0))
            self._log(
                f"Found {self._what} in the datastore in {self.seconds:.2f} s: {size}; key: {key}"
            )
            return
        verb = self._verb("Downloaded", "Loaded", "Copied")
        commit = f" at commit {summary.commit[:8]}" if summary.commit else ""
        self._log(f"{verb} {self._what}{commit} in {summary.seconds:.2f} s: {summary}; key: {key}")

    def _verb(self, from_hub: str, from_datastore: str, within_datastore: str) -> str:
        if self._access.origin == HUB:
            return from_hub
        return from_datastore if self._access.path else within_datastore
