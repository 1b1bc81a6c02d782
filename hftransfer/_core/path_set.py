"""A set of paths that takes little memory: of each it keeps 64 bits of hash.

Two paths of a million have the same hash with a probability of 3 in 100 million. A set of Python
takes 150 bytes per path, and its integers alone 70; this takes 8 to 22.
"""

from __future__ import annotations

from array import array

__all__ = ("PathSet",)

_MIN_SLOTS = 1 << 10


class PathSet:
    """Paths that were added. Used by one thread at a time."""

    def __init__(self) -> None:
        self._slots = array("q", bytes(8 * _MIN_SLOTS))
        """A hash table with open addressing: the hash of a path, or 0."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, path: str) -> bool:
        value = _hash(path)
        return self._slots[_slot(self._slots, value)] == value

    def add(self, path: str) -> bool:
        """Add a path; return False if it was added before."""
        value = _hash(path)
        slot = _slot(self._slots, value)
        if self._slots[slot] == value:
            return False
        self._slots[slot] = value
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):  # beyond, searches become long
            self._grow()
        return True

    def _grow(self) -> None:
        slots = array("q", bytes(2 * 8 * len(self._slots)))
        for value in self._slots:
            if value:
                slots[_slot(slots, value)] = value
        self._slots = slots


def _hash(path: str) -> int:
    return hash(path) or 1


def _slot(slots: array[int], value: int) -> int:
    """Return the slot that has `value`, or the empty one where it belongs."""
    mask = len(slots) - 1
    slot = value & mask
    while slots[slot] not in (0, value):
        slot = (slot + 1) & mask
    return slot
