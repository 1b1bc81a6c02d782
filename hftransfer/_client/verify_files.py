"""The steps of `AsyncClient.verify`: find the expected digests, read the files, compare.

Expected digests are those of a manifest (XXH3 of every chunk), of another location (the Hub,
for a local copy of a repository), or of the store that has the files. Files are listed, compared
with what is expected and read page by page; of what differs, the first paths are kept.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

from hftransfer._client.joined_listings import joined_listings
from hftransfer._client.registry import LocationSource, StoreRegistry
from hftransfer._client.selection import Selection, started
from hftransfer._client.sidecar import SIDECAR, read_sidecar, without_sidecar
from hftransfer._core.events import FileNotVerified, Observer, emit
from hftransfer._core.manifest import Manifest
from hftransfer._core.path_set import PathSet
from hftransfer._engine.transfer import Complete, Context, transfer
from hftransfer.errors import (
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    TransferError,
    UnsupportedError,
)
from hftransfer.locations import Location
from hftransfer.report import Verification
from hftransfer.stores.base import Entry, ListingPage, listing_pages
from hftransfer.stores.null import NullSink

__all__ = ("verify_files",)

# Paths of wrong, of missing and of unchecked files that a `Verification` has: 1 MB of each.
_MAX_PATHS = 10_000


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
    clock = time.perf_counter()
    origin = await stores.source(location)
    listed = await started(listing_pages(origin))
    if manifest is None and against is None:
        manifest = await read_sidecar(stores, location, origin, context)
        described = "the .hftransfer manifest"
    else:
        described = "the given manifest"
    found = _Findings(context.observer)
    pages = selection.pages(without_sidecar(listed))
    complete: Complete | None = None
    if manifest is not None:
        pages = _by_manifest(pages, selection.manifest(manifest), found)
    elif against is not None:
        other = await stores.source(against)
        described = other.location
        reference = selection.pages(without_sidecar(listing_pages(other)))
        pages = _by_reference(pages, reference, found)
    else:
        described = origin.location
        complete = _by_own_digests(stores, origin, found)
    report = await transfer(
        origin,
        [NullSink()],
        pages,
        context,
        tolerated=found.record,
        complete=complete,
        keep_manifest=False,
    )
    if not (report.files or found.wrong.count or found.missing.count):
        raise UnsupportedError(
            f"{origin.location}: no recorded digests to compare with; give a manifest, or a "
            "location that has digests"
        )
    return Verification(
        location=origin.location,
        against=described,
        files=report.files,
        bytes=report.bytes,
        wrong=dict(sorted(found.wrong.first.items())),
        missing=tuple(sorted(found.missing.first)),
        unchecked=tuple(sorted(found.unchecked.first)),
        wrong_count=found.wrong.count,
        missing_count=found.missing.count,
        unchecked_count=found.unchecked.count,
        seconds=time.perf_counter() - clock,
    )


@dataclass
class _Paths:
    """The number of files with one result, and the first of them with their descriptions."""

    count: int = 0
    first: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, text: str = "") -> None:
        self.count += 1
        if len(self.first) < _MAX_PATHS:
            self.first[path] = text


class _Findings:
    """What differs so far: shown by the listings, or by the content of a file that was read."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer
        self.wrong = _Paths()
        self.missing = _Paths()
        self.unchecked = _Paths()

    def add_wrong(self, path: str, difference: str) -> None:
        self.wrong.add(path, difference)
        emit(self._observer, FileNotVerified(path, "wrong", difference))

    def add_missing(self, path: str) -> None:
        self.missing.add(path)
        emit(self._observer, FileNotVerified(path, "missing"))

    def add_unchecked(self, path: str) -> None:
        self.unchecked.add(path)
        emit(self._observer, FileNotVerified(path, "unchecked"))

    def has_size(self, entry: Entry, expected: int) -> bool:
        """Return True if `entry` has `expected` bytes; otherwise it is wrong."""
        if entry.size == expected:
            return True
        self.add_wrong(entry.path, f"size mismatch: expected {expected} bytes, got {entry.size}")
        return False

    def record(self, entry: Entry, error: TransferError) -> bool:
        """Record a file that differs; return False if `error` is another failure to read it."""
        if isinstance(error, NotFoundError):  # deleted after it was listed
            self.add_missing(entry.path)
            return True
        if isinstance(error, IntegrityError | SourceChangedError):
            self.add_wrong(entry.path, error.message.removeprefix(f"{entry.path}: "))
            return True
        return False


async def _by_manifest(
    pages: AsyncGenerator[ListingPage, None], manifest: Manifest, found: _Findings
) -> AsyncGenerator[ListingPage, None]:
    """Yield the listed files with the chunk digests of `manifest`."""
    listed = PathSet()
    async for page in pages:
        entries = []
        for entry in page.entries:
            recorded = manifest.files.get(entry.path)
            listed.add(entry.path)
            if recorded is None:
                found.add_unchecked(entry.path)
            elif found.has_size(entry, recorded.size):
                entries.append(replace(entry, manifest=recorded, digest=recorded.digest))
        if page.is_last:
            for path in manifest.files:
                if path != SIDECAR and path not in listed:
                    found.add_missing(path)
        yield ListingPage(entries, page.is_last)


async def _by_reference(
    listed: AsyncGenerator[ListingPage, None],
    reference: AsyncGenerator[ListingPage, None],
    found: _Findings,
) -> AsyncGenerator[ListingPage, None]:
    """Yield the listed files with the digests of the `reference` files."""
    async for pairs in joined_listings(listed, reference):
        entries = []
        for entry, expected in pairs:
            if entry is None:
                assert expected is not None
                found.add_missing(expected.path)
            elif expected is None:
                found.add_unchecked(entry.path)
            elif found.has_size(entry, expected.size):
                if expected.digest is None:
                    found.add_unchecked(entry.path)
                else:
                    entries.append(replace(entry, digest=expected.digest))
        yield ListingPage(entries, is_last=False)
    yield ListingPage([], is_last=True)


def _by_own_digests(stores: StoreRegistry, origin: LocationSource, found: _Findings) -> Complete:
    """Return a function that adds the store's digest to a file."""
    add_digest = stores.completion(origin, digests="all")

    async def complete(entry: Entry) -> Entry | None:
        completed = entry if add_digest is None else await add_digest(entry)
        if completed.digest is None:
            found.add_unchecked(entry.path)
            return None
        return completed

    return complete
