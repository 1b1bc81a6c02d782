"""Which checksum an endpoint verifies: the first uploads find out, later ones reuse the result.

A store that does not support a checksum either rejects the request or ignores the header
silently. Therefore a checksum counts as verified only if the response repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from hftransfer.errors import RejectedError, TransferError, UnsupportedError

__all__ = ("ChecksumNegotiation",)


class ChecksumNegotiation:
    """The best checksum that the endpoint has not rejected.

    All methods run on the event loop of the `S3Client` that owns this.

    Args:
        candidates: names of checksums, best first.
    """

    def __init__(self, candidates: Sequence[str]) -> None:
        self._candidates = list(candidates)
        self._confirmed = False
        self.probe_lock = anyio.Lock()
        """Held by an upload that probes, so that concurrent uploads wait for its result."""

    @property
    def candidate(self) -> str | None:
        """Name of the checksum to send; None once all were rejected."""
        return self._candidates[0] if self._candidates else None

    @property
    def confirmed(self) -> bool:
        """True once a response has repeated the candidate."""
        return self._confirmed

    @property
    def settled(self) -> bool:
        """True once the candidate cannot change any more."""
        return self._confirmed or not self._candidates

    def confirm(self, name: str | None) -> None:
        """Record that a response repeated the checksum `name`."""
        if name is not None and name == self.candidate:
            self._confirmed = True

    def reject(self, name: str) -> None:
        """Record that the store rejected or ignored `name`; no effect once that is confirmed."""
        if name == self.candidate and not self._confirmed:
            self._candidates.pop(0)

    def may_have_caused(self, error: TransferError) -> bool:
        """Return True if the store may have sent `error` because it does not know the candidate."""
        return not self._confirmed and isinstance(error, RejectedError | UnsupportedError)
