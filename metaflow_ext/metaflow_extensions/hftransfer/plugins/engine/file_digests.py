"""Sizes and the Hub's digests of local files, with the standard library alone."""

from __future__ import annotations

import hashlib
import os

_READ_SIZE = 1 << 20  # bytes


class WrongFileError(ValueError):
    """A loaded file is not the one that was stored."""


def file_digest(path: str, algorithm: str) -> str:
    """Return the digest of the file at `path`, in hex.

    Parameters
    ----------
    path : str
    algorithm : str
        ``sha256``, or ``git-sha1`` (the id of the file as a git blob).

    Raises
    ------
    ValueError
        If `algorithm` is another one.
    """
    if algorithm == "sha256":
        hasher = hashlib.sha256()
    elif algorithm == "git-sha1":
        hasher = hashlib.sha1(usedforsecurity=False)
        hasher.update(b"blob %d\0" % os.path.getsize(path))
    else:
        raise ValueError(f"unknown digest algorithm {algorithm!r}")
    with open(path, "rb") as file:
        while data := file.read(_READ_SIZE):
            hasher.update(data)
    return hasher.hexdigest()


def find_mismatch(path: str, size: int, digest: str | None) -> str:
    """Return what is wrong with the file at `path`, or an empty text.

    Parameters
    ----------
    path : str
    size : int
        The expected number of bytes.
    digest : str, optional
        The expected ``sha256:…`` or ``git-sha1:…``.
    """
    try:
        found = os.path.getsize(path)
    except OSError:
        return "it is missing"
    if found != size:
        return f"expected {size} bytes, found {found}"
    if digest is not None:
        algorithm, _, value = digest.partition(":")
        found_digest = file_digest(path, algorithm)
        if found_digest != value:
            return f"{algorithm} mismatch: expected {value}, got {found_digest}"
    return ""
