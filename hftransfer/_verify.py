"""Checking what is stored: which files should be there, with which bytes, and which differ.

What the bytes should be is said by a manifest (XXH3 of every chunk), by another place
with digests (the Hub, for a local copy of a repository), or by the store itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hftransfer._engine import Context, transfer
from hftransfer._manifest import Manifest
from hftransfer._spans import Span
from hftransfer.errors import (
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    TransferError,
    UnsupportedError,
)
from hftransfer.locations import LocalLocation, Location, S3Location
from hftransfer.report import Verification
from hftransfer.stores.base import Entry, Source
from hftransfer.stores.discard import DiscardSink

__all__ = (
    "SIDECAR",
    "Expectation",
    "by_digests",
    "by_manifest",
    "read_manifest",
    "renamed",
    "sidecar_of",
    "verify_source",
)

SIDECAR = ".hftransfer"
"""Name of the manifest in a folder, and end of its name beside a single file."""
# No manifest is as long: a petabyte in chunks of 8 MiB is 4 GB, a terabyte 4 MB.
_LONGEST = 512 << 20


@dataclass(frozen=True)
class Expectation:
    """What should be at a location."""

    against: str
    """Who says so, for people."""
    entries: Sequence[Entry]
    """What is there, with what its bytes should be."""
    missing: Sequence[str]
    """Paths that should be there."""
    unchecked: Sequence[str]
    """Paths that are there and of which nobody says anything."""
    wrong: Mapping[str, str]
    """Paths to what was found wrong without reading."""


def by_manifest(listed: Sequence[Entry], manifest: Manifest, against: str) -> Expectation:
    """Return what `manifest` says of what is there."""
    there = {entry.path: entry for entry in listed}
    wrong = {}
    entries = []
    for path, recorded in manifest.files.items():
        entry = there.get(path)
        if entry is None:
            continue
        if entry.size != recorded.size:
            wrong[path] = f"{entry.size} bytes are there, {recorded.size} were recorded"
        else:
            entries.append(replace(entry, manifest=recorded, digest=recorded.digest))
    return Expectation(
        against=against,
        entries=entries,
        missing=sorted(set(manifest.files) - set(there)),
        unchecked=sorted(set(there) - set(manifest.files)),
        wrong=wrong,
    )


def by_digests(listed: Sequence[Entry], others: Sequence[Entry], against: str) -> Expectation:
    """Return what the digests of `others`, listed elsewhere, say of what is there."""
    there = {entry.path: entry for entry in listed}
    known = {entry.path: entry for entry in others}
    wrong = {}
    entries = []
    unchecked = set(there) - set(known)
    for path in sorted(set(there) & set(known)):
        if there[path].size != known[path].size:
            wrong[path] = f"{there[path].size} bytes are there, not {known[path].size}"
        elif known[path].digest is None:
            unchecked.add(path)
        else:
            entries.append(replace(there[path], digest=known[path].digest))
    missing = sorted(set(known) - set(there))
    return Expectation(against, entries, missing, sorted(unchecked), wrong)


def sidecar_of(location: Location) -> Location:
    """Return where the manifest of the single file at `location` lies."""
    if isinstance(location, S3Location):
        return replace(location, key=location.key + SIDECAR)
    if isinstance(location, LocalLocation):
        return replace(location, path=location.path.with_name(location.path.name + SIDECAR))
    raise UnsupportedError(f"{location}: nothing can lie beside it")


def renamed(manifest: Manifest, location: Location) -> Manifest:
    """Return the manifest of one file under the name that it has at `location`."""
    name = str(location).rpartition("/")[2]
    (file,) = manifest.files.values()
    return replace(manifest, files={name: file})


async def read_manifest(source: Source, entry: Entry) -> Manifest:
    """Return the manifest that is stored as `entry`.

    Raises:
        IntegrityError: if it is none.
    """
    what = f"{source.location}: {entry.path}"
    if entry.size > _LONGEST:
        raise IntegrityError(f"{what} is too long for a manifest")
    buffer = bytearray(entry.size)
    if buffer:
        await source.fill(entry, Span(0, memoryview(buffer)))
    try:
        value = json.loads(buffer)
    except ValueError as error:
        raise IntegrityError(f"{what} is no manifest: {error}") from error
    return Manifest.from_dict(value)


async def verify_source(source: Source, expectation: Expectation, context: Context) -> Verification:
    """Read what is expected and compare; a file that differs stops nothing.

    Raises:
        TransferError: if something cannot be read, other than for its content.
    """
    started = time.perf_counter()
    wrong = dict(expectation.wrong)
    missing = set(expectation.missing)

    def note(entry: Entry, error: TransferError) -> bool:
        if isinstance(error, NotFoundError):
            missing.add(entry.path)
            return True
        if isinstance(error, IntegrityError | SourceChangedError):
            wrong[entry.path] = error.message.removeprefix(f"{entry.path}: ")
            return True
        return False

    report = await transfer(source, [DiscardSink()], expectation.entries, context, tolerated=note)
    return Verification(
        location=source.location,
        against=expectation.against,
        files=report.files,
        bytes=report.bytes,
        wrong=dict(sorted(wrong.items())),
        missing=tuple(sorted(missing)),
        unchecked=tuple(expectation.unchecked),
        seconds=time.perf_counter() - started,
    )
