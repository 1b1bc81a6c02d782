"""What this machine remembers between processes: where it is kept, and what names the machine."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

__all__ = ("boot_id", "state_folder")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what names this machine and its last start; empty if the system does not tell."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def state_folder(name: str) -> Path:
    """Return the folder for one kind of state; it may not exist.

    ``$XDG_STATE_HOME/hftransfer/<name>``, by default below ``~/.local/state``.
    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base, "hftransfer", name)
