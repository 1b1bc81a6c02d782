"""Sizes and the Hub's digests of local files, with nothing but the standard library."""

from __future__ import annotations

import hashlib
import os

_STEP = 1 << 20


class WrongFileError(ValueError):
    """A loaded file is not what was stored."""


def file_digest(path: str, algorithm: str) -> str:
    """Return the ``sha256`` or ``git-sha1`` of the file at `path`, in hex.

    Raises
    ------
    ValueError
        If `algorithm` is another.
    """
    if algorithm == "sha256":
        hasher = hashlib.sha256()
    elif algorithm == "git-sha1":
        hasher = hashlib.sha1(usedforsecurity=False)
        hasher.update(b"blob %d\0" % os.path.getsize(path))
    else:
        raise ValueError(f"unknown digest algorithm {algorithm!r}")
    with open(path, "rb") as file:
        while data := file.read(_STEP):
            hasher.update(data)
    return hasher.hexdigest()


def wrong_file(path: str, size: int, digest: str | None) -> str:
    """Return what is wrong with the file at `path`, or an empty text.

    Parameters
    ----------
    path : str
    size : int
        Bytes that it must have.
    digest : str, optional
        ``sha256:…`` or ``git-sha1:…`` that it must have.
    """
    try:
        found = os.path.getsize(path)
    except OSError:
        return "it is missing"
    if found != size:
        return f"it has {found} bytes, {size} were stored"
    if digest is not None:
        algorithm, _, value = digest.partition(":")
        if file_digest(path, algorithm) != value:
            return f"its {algorithm} is not the recorded one"
    return ""
