"""The steps of `AsyncClient.verify`: collect the expected digests, read the files, compare.

Expected digests are those of a manifest (XXH3 of every chunk), of another location (the Hub,
for a local copy of a repository), or of the store that has the files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hftransfer._client.registry import LocationSource, StoreRegistry
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

__all__ = ("verify_files",)


async def verify_files(
    stores: StoreRegistry,
    location: Location,
    selection: Selection,
    context: Context,
    *,
    manifest: Manifest | None,
    against: Location | None,
) -> Verification:
    """Implement `AsyncClient.verify` for parsed locations; the arguments are those of `verify`."""
    origin = await stores.source(location)
    checks = await _checks(stores, location, origin, selection, manifest, against)
    if checks.is_empty:
        raise UnsupportedError(
            f"{origin.location}: no recorded digests to compare with; give a manifest, or a "
            "location that has digests"
        )
    return await _compare(origin, checks, context)


@dataclass(frozen=True)
class _Checks:
    """Which files to read and compare, and what the listings alone have shown."""

    against: str
    """Where the expected digests come from, as `Verification.against`."""
    entries: Sequence[Entry]
    """Files to read, each with its expected digest or manifest."""
    missing: Sequence[str]
    """Paths that are expected and not listed."""
    unchecked: Sequence[str]
    """Paths that are listed and have no expected digest."""
    wrong: Mapping[str, str]
    """Paths of files whose size already differs, to the description of the difference."""

    @property
    def is_empty(self) -> bool:
        """True if no file can be compared with anything."""
        return not (self.entries or self.missing or self.wrong)


async def _checks(
    stores: StoreRegistry,
    location: Location,
    origin: LocationSource,
    selection: Selection,
    manifest: Manifest | None,
    against: Location | None,
) -> _Checks:
    """List `location` and find the expected digests: the first of four places that has them."""
    everything = await origin.list()
    listed = selection.entries([entry for entry in everything if entry.path != SIDECAR])
    if manifest is not None:
        return _by_manifest(listed, selection.manifest(manifest), "the given manifest")
    if against is not None:
        other = await stores.source(against)
        return _by_digests(listed, selection.entries(await other.list()), other.location)
    if sidecar := await read_sidecar(stores, location, origin, everything):
        return _by_manifest(listed, selection.manifest(sidecar), "the .hftransfer manifest")
    entries = await stores.with_digests(origin, listed, all_sizes=True)
    return _by_digests(entries, entries, origin.location)


def _by_manifest(listed: Sequence[Entry], manifest: Manifest, against: str) -> _Checks:
    """Return the checks of the `listed` files against the chunk digests of `manifest`."""
    found = {entry.path: entry for entry in listed}
    wrong = {}
    entries = []
    for path, recorded in manifest.files.items():
        entry = found.get(path)
        if entry is None:
            continue
        if entry.size != recorded.size:
            wrong[path] = _size_mismatch(entry.size, recorded.size)
        else:
            entries.append(replace(entry, manifest=recorded, digest=recorded.digest))
    return _Checks(
        against=against,
        entries=entries,
        missing=sorted(set(manifest.files) - set(found)),
        unchecked=sorted(set(found) - set(manifest.files)),
        wrong=wrong,
    )


def _by_digests(listed: Sequence[Entry], reference: Sequence[Entry], against: str) -> _Checks:
    """Return the checks of the `listed` files against the digests of the `reference` files."""
    found = {entry.path: entry for entry in listed}
    expected = {entry.path: entry for entry in reference}
    wrong = {}
    entries = []
    unchecked = set(found) - set(expected)
    for path in sorted(set(found) & set(expected)):
        if found[path].size != expected[path].size:
            wrong[path] = _size_mismatch(found[path].size, expected[path].size)
        elif expected[path].digest is None:
            unchecked.add(path)
        else:
            entries.append(replace(found[path], digest=expected[path].digest))
    missing = sorted(set(expected) - set(found))
    return _Checks(against, entries, missing, sorted(unchecked), wrong)


def _size_mismatch(size: int, expected: int) -> str:
    return f"size mismatch: expected {expected} bytes, got {size}"


class _Differences:
    """What differs so far: sizes from the listings, then the content of each file that is read."""

    def __init__(self, checks: _Checks) -> None:
        self.wrong = dict(checks.wrong)
        self.missing = set(checks.missing)

    def record(self, entry: Entry, error: TransferError) -> bool:
        """Record a file that differs; return False if `error` is another failure to read it."""
        if isinstance(error, NotFoundError):  # deleted after it was listed
            self.missing.add(entry.path)
            return True
        if isinstance(error, IntegrityError | SourceChangedError):
            self.wrong[entry.path] = error.message.removeprefix(f"{entry.path}: ")
            return True
        return False


async def _compare(source: Source, checks: _Checks, context: Context) -> Verification:
    """Read the files of `checks` and compare; a file that differs does not stop the others.

    Raises:
        TransferError: if a file cannot be read for a reason other than its content.
    """
    started = time.perf_counter()
    found = _Differences(checks)
    report = await transfer(source, [NullSink()], checks.entries, context, tolerated=found.record)
    return Verification(
        location=source.location,
        against=checks.against,
        files=report.files,
        bytes=report.bytes,
        wrong=dict(sorted(found.wrong.items())),
        missing=tuple(sorted(found.missing)),
        unchecked=tuple(checks.unchecked),
        seconds=time.perf_counter() - started,
    )
