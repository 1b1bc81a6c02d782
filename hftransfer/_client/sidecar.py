"""Sidecars: manifests stored with what they describe, in a folder or beside a single file."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from hftransfer._client.registry import LocationSource, StoreRegistry
from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.manifest import Manifest
from hftransfer._core.manifest_json import manifest_text, read_manifest
from hftransfer._engine.transfer import Context, transfer
from hftransfer._io.temporary_file import temporary_path, write_new_file
from hftransfer.errors import IntegrityError, NotFoundError, UnsupportedError
from hftransfer.locations import (
    HubLocation,
    LocalLocation,
    Location,
    MemoryLocation,
    S3Location,
)
from hftransfer.stores.base import Entry, ListingPage, Source
from hftransfer.stores.local.sink import LocalSink
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.memory import MemoryStore

__all__ = ("SIDECAR", "read_sidecar", "without_sidecar", "write_sidecar")

SIDECAR = ".hftransfer"
"""Name of the sidecar in a folder; suffix of its name beside a single file."""
# Bytes. A larger file is not a manifest: with chunks of 8 MiB, the manifest of a terabyte has
# 4 MB and that of 130 TB reaches this limit.
_MAX_SIZE = 512 << 20
# Bytes of a sidecar's text in memory, that of some 40,000 small files. A longer one is written to a
# temporary file before it is sent, and received into one before it is parsed.
_MAX_IN_MEMORY = 8 << 20
_TEMPORARY = "manifest.json"


async def write_sidecar(
    stores: StoreRegistry, destination: Location, single: bool, manifest: Manifest, context: Context
) -> None:
    """Write `manifest` where `read_sidecar` finds it.

    Args:
        stores: of the client.
        destination: where the files were copied to.
        single: True if `destination` is the name of a single file rather than a folder.
        manifest: of the copy.
        context: of the client. Its observer is not called: progress counts the user's files.
    """
    written = _renamed(manifest, destination) if single else manifest
    sink = await stores.sink(_beside(destination) if single else destination, single)
    async with _as_source(written) as source:
        entries = [replace(entry, path=SIDECAR) for entry in await source.list()]
        await transfer(source, [sink], entries, replace(context, observer=None))


@asynccontextmanager
async def _as_source(manifest: Manifest) -> AsyncIterator[MemoryStore | LocalSource]:
    """Give a source of one file: the JSON text of `manifest`, in memory or in a temporary file.

    Raises:
        DestinationError: if the text does not fit into the folder of temporary files.
    """
    beginning = io.BytesIO()
    pieces = (piece.encode() for piece in manifest_text(manifest))
    for piece in pieces:
        beginning.write(piece)
        if beginning.tell() > _MAX_IN_MEMORY:
            break
    else:
        yield MemoryStore({SIDECAR: beginning.getvalue()})
        return

    with temporary_path(_TEMPORARY) as path:
        write = partial(write_new_file, path, chain([beginning.getbuffer()], pieces))
        await to_thread.run_sync(write)
        yield LocalSource(path)


async def without_sidecar(
    pages: AsyncGenerator[ListingPage, None],
) -> AsyncGenerator[ListingPage, None]:
    """Yield the pages of a folder without its sidecar, which describes the other files."""
    async with aclosing(pages):
        async for page in pages:
            entries = [entry for entry in page.entries if entry.path != SIDECAR]
            yield page._replace(entries=entries)


async def read_sidecar(
    stores: StoreRegistry, location: Location, origin: LocationSource, context: Context
) -> Manifest | None:
    """Return the manifest stored in the folder `location` or beside the file; None if none is.

    It is asked for by its name, since it can be anywhere in a listing.

    Args:
        stores: of the client.
        location: what the manifest describes.
        origin: the source of `location`, of which a page has been listed.
        context: of the client.

    Raises:
        IntegrityError: if the sidecar is not a valid manifest.
    """
    if isinstance(location, HubLocation):
        return None if origin.single else await _read_from_hub(stores, location, origin, context)
    if isinstance(location, MemoryLocation):
        beside: LocationSource = origin
    else:
        named = _beside(location) if origin.single else _inside(location)
        beside = await stores.source(named)
    try:
        listed = await beside.list()
    except NotFoundError:
        return None
    if not (beside.single or beside is origin):
        return None  # a folder or prefix of that name
    found = [entry for entry in listed if beside.single or entry.path == SIDECAR]
    return await _read(beside, found[0], context) if found else None


async def _read_from_hub(
    stores: StoreRegistry, location: HubLocation, origin: LocationSource, context: Context
) -> Manifest | None:
    source = await stores.hub_source(replace(location, revision=origin.commit))
    path = f"{location.path}/{SIDECAR}" if location.path else SIDECAR
    try:
        entry = await source.find(path)
    except NotFoundError:
        return None
    return await _read(source, entry, context)


def _inside(location: S3Location | LocalLocation) -> Location:
    """Return the location of the sidecar in the folder at `location`."""
    if isinstance(location, LocalLocation):
        return replace(location, path=location.path / SIDECAR, as_folder=False)
    folder = location.key if not location.key or location.key.endswith("/") else f"{location.key}/"
    return replace(location, key=folder + SIDECAR)


def _beside(location: Location) -> Location:
    """Return the location of the sidecar of the single file at `location`."""
    if isinstance(location, S3Location):
        return replace(location, key=location.key + SIDECAR)
    if isinstance(location, LocalLocation):
        return replace(location, path=location.path.with_name(location.path.name + SIDECAR))
    raise UnsupportedError(f"{location}: no manifest can be written beside a file here")


def _renamed(manifest: Manifest, location: Location) -> Manifest:
    """Return the manifest of a single file with the name that the file has at `location`."""
    name = str(location).rpartition("/")[2]
    (file,) = manifest.files.values()
    return replace(manifest, files={name: file})


async def _read(source: Source, entry: Entry, context: Context) -> Manifest:
    """Return the manifest stored as `entry` of `source`.

    Raises:
        IntegrityError: if it is not a valid manifest.
        DestinationError: if it does not fit into the folder of temporary files.
    """
    what = f"{source.location}: {entry.path}"
    if entry.size > _MAX_SIZE:
        raise IntegrityError(
            f"{what} is not a manifest: it has {entry.size} bytes, the limit is {_MAX_SIZE}"
        )
    if entry.size <= _MAX_IN_MEMORY:
        buffer = bytearray(entry.size)
        if buffer:
            await source.fill(entry, ByteRangeBuffer(0, memoryview(buffer)))
        return _parse(io.BytesIO(buffer), what)

    def parse(path: Path) -> Manifest:
        with open(path, "rb") as file:
            return _parse(file, what)

    with temporary_path(_TEMPORARY) as path:
        sink = LocalSink(path, single=True)
        await transfer(source, [sink], [entry], replace(context, observer=None))
        return await to_thread.run_sync(parse, path)


def _parse(file: BinaryIO, what: str) -> Manifest:
    try:
        with io.TextIOWrapper(file, encoding="utf-8") as text:
            return read_manifest(text)
    except IntegrityError as error:
        raise IntegrityError(f"{what} is not a manifest: {error}") from error
