"""Locations: the strings that name a source or a destination, and their parser.

The forms are ``hf://[models/|datasets/|spaces/|kernels/]org/name[@revision][/path]``,
``s3://bucket[/key]`` (the bucket may be the ARN of an access point), ``memory://name[/path]`` and
``file:///path``; any other string is a local path. The path of a file inside a location is
relative, has ``/`` between its segments, and is checked by `safe_path`.
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
    "path_problem",
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
# With ":" or "/" between the parts of the resource:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-points-naming.html
_ACCESS_POINT = re.compile(
    r"arn:[a-z0-9-]+:s3(?:-object-lambda|-outposts)?:[a-z0-9-]*:\d{12}:"
    r"(?:outpost[/:][A-Za-z0-9-]{1,63}[/:])?accesspoint[/:][A-Za-z0-9.-]{1,63}(?=/|\Z)"
)
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z0-9][A-Za-z0-9+.-]*)://")
# A scheme with one slash or colon too few.
_MISTYPED = re.compile(r"(?P<scheme>hf|s3|memory)(?::/?(?!/)|/{2})", re.IGNORECASE)
# Segments that are neither empty nor `.` nor `..`, without a drive letter. A single expression,
# because every path of every listing is matched several times.
_SAFE_PATH = re.compile(r"(?![A-Za-z]:)(?:(?!\.\.?(?:/|\Z))[^/\\\0]+(?:/(?!\Z)|\Z))+")
# Revisions with a slash that the Hub itself creates; other slashes must be percent-encoded.
_SPECIAL_REF = re.compile(r"refs/(?:convert/[^/]+|pr/\d+)")


@dataclass(frozen=True)
class HubLocation:
    """A repository of the Hub, or a file or folder in it."""

    repo_id: str
    """``name`` or ``owner/name``."""
    repo_type: str = "model"
    """``model``, ``dataset``, ``space`` or ``kernel``."""
    revision: str | None = None
    """Branch, tag or commit; None for the default branch."""
    path: str = ""
    """Of a file or folder; empty for the whole repository."""

    def __str__(self) -> str:
        revision = "" if self.revision is None else "@" + quote(self.revision, safe="")
        path = f"/{self.path}" if self.path else ""
        prefix = _PREFIXES[self.repo_type]
        if not prefix and self.repo_id.partition("/")[0] in _REPO_TYPES:
            prefix = "models/"  # otherwise the owner would be parsed as a type
        return f"hf://{prefix}{self.repo_id}{revision}{path}"


@dataclass(frozen=True)
class S3Location:
    """An object of a bucket, or all objects under a prefix."""

    bucket: str
    """Name of the bucket, or ARN of an access point to it."""
    key: str = ""
    """Key or prefix, not percent-encoded; empty for the whole bucket."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class LocalLocation:
    """A local file or folder."""

    path: Path
    as_folder: bool = False
    """True if the location ended in a slash: as a destination, it is a folder for the files."""

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class MemoryLocation:
    """Files in a `MemoryStore` of this process."""

    name: str
    """Of the store."""
    path: str = ""
    """Of a file or folder; empty for all files."""

    def __str__(self) -> str:
        return f"memory://{self.name}/{self.path}"


Location: TypeAlias = HubLocation | S3Location | LocalLocation | MemoryLocation


def parse_location(text: str | os.PathLike[str]) -> Location:
    """Return the location that `text` names.

    Args:
        text: a location string, or a path object, which is always local. A leading ``~`` is
            expanded in both.

    Raises:
        LocationError: if `text` is empty, has an unknown scheme, is not of the form of its
            scheme, or looks like a mistyped ``hf://``, ``s3://`` or ``memory://``.
    """
    if not isinstance(text, str):
        return LocalLocation(Path(text).expanduser())
    if not text or "\0" in text:
        raise LocationError(f"{text!r} is not a location: use hf://…, s3://… or a path")
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
            f"{text!r}: unknown scheme {scheme}://; use hf://, s3:// or a path{hint}"
        )
    if mistyped := _MISTYPED.match(text):
        fixed = f"{mistyped['scheme'].lower()}://{text[mistyped.end() :].lstrip('/')}"
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
        raise LocationError(f"{text!r} names no repository; the form is {shape}")
    # The revision follows the name: "@" in the first segment means that there is no owner.
    count = 1 if len(segments) == 1 or "@" in segments[0] else 2
    head = "/".join(segments[:count])
    repo_id, at, revision = head.partition("@")
    remaining = segments[count:]
    if at and revision == "refs":
        special = _SPECIAL_REF.match("/".join([revision, *remaining]))
        if special is None:
            raise LocationError(f"{text!r}: a '/' inside a revision must be written as %2F")
        revision = special[0]
        remaining = remaining[2:]
    if at and not revision:
        raise LocationError(f"{text!r}: the revision after '@' is empty")
    for part in repo_id.split("/"):
        if not _NAME.fullmatch(part) or ".." in part or "--" in part:
            raise LocationError(
                f"{text!r}: {repo_id!r} is not a repository id; the form is {shape}"
            )
    path = safe_path("/".join(remaining)) if remaining else ""
    return HubLocation(repo_id, repo_type or "model", unquote(revision) or None, path)


def _parse_s3(text: str, rest: str) -> S3Location:
    if rest.startswith("arn:"):
        matched = _ACCESS_POINT.match(rest)
        if matched is None:
            raise LocationError(
                f"{text!r}: the ARN is not that of an access point; the form is "
                "s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME[/key]"
            )
        return S3Location(matched[0], rest[matched.end() + 1 :])
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise LocationError(f"{text!r} names no bucket; the form is s3://bucket[/key]")
    return S3Location(bucket, key)


def safe_path(path: str) -> str:
    """Return `path` if it stays inside the folder that it is joined to, on every system.

    Rejected are empty and absolute paths, empty, ``.`` and ``..`` segments, NUL, backslashes and
    drive letters.

    Raises:
        LocationError: if `path` is rejected.
    """
    if not _SAFE_PATH.fullmatch(path):
        raise LocationError(f"{path!r} is not a relative path that stays inside its folder")
    return path


def path_problem(path: str) -> str | None:
    """Return why `safe_path` rejects `path`, as the end of a sentence about it, or None."""
    if _SAFE_PATH.fullmatch(path):
        return None
    if "\0" in path:
        return "has a NUL"
    if "\\" in path:
        return "has a backslash"
    if path.startswith("/"):
        return "is an absolute path"
    segments = path.split("/")
    if ".." in segments or "." in segments:
        return "has a segment '.' or '..'"
    if path.endswith("/"):
        return "ends in a slash"
    return "has an empty segment" if "" in segments else "begins with a drive letter"
