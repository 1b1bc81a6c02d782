"""Numbers as the command line prints them."""

from __future__ import annotations

__all__ = ("format_size",)


def format_size(size: float) -> str:
    """Return a number of bytes in the largest fitting unit up to GiB, such as ``2.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
