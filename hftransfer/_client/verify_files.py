"""Checking what is stored: which files should be there, with which bytes, and which differ.

What the bytes should be is said by a manifest (XXH3 of every chunk), by another place
with digests (the Hub, for a local copy of a repository), or by the store itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hftransfer._client.registry import OpenStores
from hftransfer._client.selection import Selection
from hftransfer._client.sidecar import SIDECAR, read_sidecar
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context, transfer
from hftransfer.errors import (
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    TransferError,
    UnsupportedError,
)
from hftransfer.locations import Location
from hftransfer.report import Verification
from hftransfer.stores.base import Entry, Source
from hftransfer.stores.null import NullSink

__all__ = ("verify",)


async def verify(
    stores: OpenStores,
    place: Location,
    selection: Selection,
    context: Context,
    *,
    manifest: Manifest | None,
    against: Location | None,
) -> Verification:
    """Do what `AsyncClient.verify` says."""
    origin = await stores.source(place)
    everything = await origin.list()
    listed = selection.entries([entry for entry in everything if entry.path != SIDECAR])
    if manifest is not None:
        expected = _by_manifest(listed, selection.manifest(manifest), "the given manifest")
    elif against is not None:
        other = await stores.source(against)
        expected = _by_digests(listed, selection.entries(await other.list()), other.location)
    elif found := await read_sidecar(stores, place, origin, everything):
        expected = _by_manifest(listed, selection.manifest(found), "the manifest beside it")
    else:
        known = await stores.with_digests(origin, listed, all_sizes=True)
        expected = _by_digests(known, known, origin.location)
    if not expected.says_something:
        raise UnsupportedError(
            f"{origin.location}: nobody says what these bytes should be: give a manifest, "
            "or a location to compare with"
        )
    return await _compare(origin, expected, context)


@dataclass(frozen=True)
class _Expectation:
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

    @property
    def says_something(self) -> bool:
        return bool(self.entries or self.missing or self.wrong)


def _by_manifest(listed: Sequence[Entry], manifest: Manifest, against: str) -> _Expectation:
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
    return _Expectation(
        against=against,
        entries=entries,
        missing=sorted(set(manifest.files) - set(there)),
        unchecked=sorted(set(there) - set(manifest.files)),
        wrong=wrong,
    )


def _by_digests(listed: Sequence[Entry], others: Sequence[Entry], against: str) -> _Expectation:
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
    return _Expectation(against, entries, missing, sorted(unchecked), wrong)


async def _compare(source: Source, expectation: _Expectation, context: Context) -> Verification:
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

    report = await transfer(source, [NullSink()], expectation.entries, context, tolerated=note)
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
