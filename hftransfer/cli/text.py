"""Numbers as the command line prints them."""

from __future__ import annotations

__all__ = ("count_of", "format_size")


def format_size(size: float) -> str:
    """Return a number of bytes in the largest fitting unit up to GiB, such as ``2.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def count_of(number: int, singular: str, plural: str) -> str:
    """Return ``1 file`` or ``2 files``."""
    return f"{number} {singular if number == 1 else plural}"
