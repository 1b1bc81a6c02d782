"""Which checksum one endpoint verifies: found out with the first uploads, then remembered.

Stores that do not know a checksum either refuse it or ignore it in silence, so one counts
as verified only if the answer repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from hftransfer.errors import RejectedError, TransferError, UnsupportedError

__all__ = ("ChecksumChoice",)


class ChecksumChoice:
    """The best checksum that the endpoint has not turned down.

    Args:
        offers: names, the best first.
    """

    def __init__(self, offers: Sequence[str]) -> None:
        self._left = list(offers)
        self._confirmed = False
        self.probing = anyio.Lock()
        """Held by the upload that finds out."""

    @property
    def name(self) -> str | None:
        """What to offer; None once everything was turned down."""
        return self._left[0] if self._left else None

    @property
    def settled(self) -> bool:
        """True once there is nothing more to find out."""
        return self._confirmed or not self._left

    def confirm(self, name: str | None) -> None:
        """Note that an answer repeated the checksum `name`."""
        if name is not None and name == self.name:
            self._confirmed = True

    def reject(self, name: str) -> None:
        """Note that `name` was refused or ignored, unless it was confirmed before."""
        if name == self.name and not self._confirmed:
            self._left.pop(0)

    def may_be_about(self, error: TransferError) -> bool:
        """Return True if `error` can mean that the present name is not known there."""
        return not self._confirmed and isinstance(error, RejectedError | UnsupportedError)
