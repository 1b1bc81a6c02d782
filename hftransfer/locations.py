"""Locations: the strings that name a source or a destination, parsed once.

``hf://[models/|datasets/|spaces/]org/name[@revision][/path]``, ``s3://bucket[/key]``,
``memory://name[/path]`` and everything else a local path. Paths of files inside a
location are relative, with ``/`` between segments, and checked by `safe_path`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote

from hftransfer.errors import LocationError

__all__ = (
    "HubLocation",
    "LocalLocation",
    "Location",
    "MemoryLocation",
    "S3Location",
    "parse_location",
    "safe_path",
)

_REPO_TYPES = {
    "models": "model",
    "datasets": "dataset",
    "spaces": "space",
    "kernels": "kernel",
}
_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/", "kernel": "kernels/"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z0-9][A-Za-z0-9+.-]*)://")
_NEARLY = re.compile(r"(?P<scheme>hf|s3|memory)(?::/?(?!/)|/{2})", re.IGNORECASE)
# Revisions with a slash that the Hub itself makes; others must be percent-encoded.
# Segments that are neither empty nor `.` nor `..`, without a drive letter. One match, since
# every path of every listing passes it several times.
_SAFE_PATH = re.compile(r"(?![A-Za-z]:)(?:(?!\.\.?(?:/|\Z))[^/\\\0]+(?:/(?!\Z)|\Z))+")
_SPECIAL_REF = re.compile(r"refs/(?:convert/[^/]+|pr/\d+)")


@dataclass(frozen=True)
class HubLocation:
    """A repository on the Hub, or a file or folder of it."""

    repo_id: str
    repo_type: str = "model"
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = "" if self.revision is None else "@" + quote(self.revision, safe="")
        path = f"/{self.path}" if self.path else ""
        prefix = _PREFIXES[self.repo_type]
        if not prefix and self.repo_id.partition("/")[0] in _REPO_TYPES:
            prefix = "models/"  # else the owner would be read as a type
        return f"hf://{prefix}{self.repo_id}{revision}{path}"


@dataclass(frozen=True)
class S3Location:
    """An object, or everything under a prefix, of one bucket."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class LocalLocation:
    """A file or folder of this machine."""

    path: Path
    as_folder: bool = False
    """True when it was written with a trailing slash: a destination inside which files go."""

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class MemoryLocation:
    """Files held by a `MemoryStore` of this process."""

    name: str
    path: str = ""

    def __str__(self) -> str:
        return f"memory://{self.name}/{self.path}"


Location: TypeAlias = HubLocation | S3Location | LocalLocation | MemoryLocation


def parse_location(text: str | os.PathLike[str]) -> Location:
    """Return the location that `text` names.

    Args:
        text: a location string, or a path object (always local).

    Raises:
        LocationError: if `text` is empty, has an unknown scheme, or looks like a
            mistyped ``hf://`` or ``s3://``.
    """
    if not isinstance(text, str):
        return LocalLocation(Path(text).expanduser())
    if not text or "\0" in text:
        raise LocationError(f"{text!r} is not a location: give hf://…, s3://… or a path")
    if matched := _SCHEME.match(text):
        scheme, rest = matched["scheme"], text[matched.end() :]
        if scheme == "hf":
            return _parse_hub(text, rest)
        if scheme == "s3":
            return _parse_s3(text, rest)
        if scheme == "memory":
            name, _, path = rest.partition("/")
            return MemoryLocation(name, path.strip("/"))
        if scheme == "file":
            return LocalLocation(Path(unquote(rest)), as_folder=rest.endswith("/"))
        hint = f"; did you mean {scheme.lower()}://?" if scheme.lower() in ("hf", "s3") else ""
        raise LocationError(
            f"{text!r}: unknown scheme {scheme}://; hf://, s3:// and paths are known{hint}"
        )
    if nearly := _NEARLY.match(text):
        fixed = f"{nearly['scheme'].lower()}://{text[nearly.end() :].lstrip('/')}"
        raise LocationError(
            f"{text!r} looks like a mistyped {fixed!r}; write ./{text} for a file of that name"
        )
    try:
        local = Path(text).expanduser()
    except RuntimeError as error:
        raise LocationError(f"{text!r}: {error}; write ./{text} for a file of that name") from error
    return LocalLocation(local, as_folder=text.endswith("/"))


def _parse_hub(text: str, rest: str) -> HubLocation:
    shape = "hf://[datasets/|spaces/]org/name[@revision][/path]"
    segments = rest.rstrip("/").split("/")
    repo_type = _REPO_TYPES.get(segments[0])
    if repo_type is not None:
        segments = segments[1:]
    if not segments or not all(segments):
        raise LocationError(f"{text!r} names no repository: the form is {shape}")
    # A revision ends the repository's name, so "@" in the first segment means a bare id.
    count = 1 if len(segments) == 1 or "@" in segments[0] else 2
    head = "/".join(segments[:count])
    repo_id, at, revision = head.partition("@")
    remaining = segments[count:]
    if at and revision == "refs":
        special = _SPECIAL_REF.match("/".join([revision, *remaining]))
        if special is None:
            raise LocationError(f"{text!r}: write a '/' inside a revision as %2F")
        revision = special[0]
        remaining = remaining[2:]
    if at and not revision:
        raise LocationError(f"{text!r}: the revision after '@' is empty")
    for part in repo_id.split("/"):
        if not _NAME.fullmatch(part) or ".." in part or "--" in part:
            raise LocationError(f"{text!r}: {repo_id!r} is not a repository id ({shape})")
    path = safe_path("/".join(remaining)) if remaining else ""
    return HubLocation(repo_id, repo_type or "model", unquote(revision) or None, path)


def _parse_s3(text: str, rest: str) -> S3Location:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise LocationError(f"{text!r} names no bucket: the form is s3://bucket[/key]")
    return S3Location(bucket, key)


def safe_path(path: str) -> str:
    """Return `path` if it may be joined to a folder without leaving it.

    Rejected: empty, absolute, NUL, empty or ``.`` or ``..`` segments, backslashes and
    drive letters (a name made on one system must not escape on another).

    Raises:
        LocationError: if `path` is rejected.
    """
    if not _SAFE_PATH.fullmatch(path):
        raise LocationError(f"{path!r} is not a relative path that stays inside its folder")
    return path
