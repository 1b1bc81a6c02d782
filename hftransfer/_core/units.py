"""Sizes in bytes as text: read from options and the environment, written for users.

Sizes are written in binary units (1 KiB = 1024 bytes). Both kinds of units can be read.
"""

from __future__ import annotations

import re

from hftransfer.errors import OptionsError

__all__ = ("MIB", "format_size", "parse_count", "parse_size")

MIB = 1 << 20

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": MIB, "gib": 1 << 30}
_UNITS |= {"k": 1 << 10, "m": MIB, "g": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


# Below 2^63. `int` also reads signs, spaces, underscores and digits of other scripts.
_COUNT = re.compile(r"[0-9]{1,18}")


def parse_count(text: str) -> int | None:
    """Return a number of bytes or seconds that a server sent, or None if `text` is none.

    Args:
        text: 1 to 18 ASCII digits.
    """
    return int(text) if _COUNT.fullmatch(text) else None


def format_size(size: float) -> str:
    """Return a number of bytes for users: ``512 B``, ``1.5 MiB``, ``2.00 GiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.2f} GiB"


def parse_size(text: str) -> int:
    """Return the number of bytes that `text` gives.

    Args:
        text: a number, with or without a unit: ``8388608``, ``8MiB`` and ``8M`` are binary,
            ``8MB`` is 8 * 10^6. Letter case and surrounding spaces do not matter.

    Raises:
        OptionsError: if `text` is not a size.
    """
    stripped = text.strip().lower()
    number = stripped.rstrip("bkmgi")
    unit = stripped[len(number) :]
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise OptionsError(f"{text!r} is not a size such as 8388608 or 8MiB") from None
