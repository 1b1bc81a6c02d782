"""Sidecars: manifests stored with what they describe, in a folder or beside a single file."""

from __future__ import annotations

import json
from dataclasses import replace

from hftransfer._client.registry import LocationSource, StoreRegistry
from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context, transfer
from hftransfer.errors import IntegrityError, NotFoundError, UnsupportedError
from hftransfer.locations import (
    HubLocation,
    LocalLocation,
    Location,
    MemoryLocation,
    S3Location,
)
from hftransfer.stores.base import Entry, Source
from hftransfer.stores.memory import MemoryStore

__all__ = ("SIDECAR", "read_sidecar", "write_sidecar")

SIDECAR = ".hftransfer"
"""Name of the sidecar in a folder; suffix of its name beside a single file."""
# Bytes. A larger file is not a manifest: with chunks of 8 MiB, the manifest of a terabyte has
# 4 MB and that of 130 TB reaches this limit.
_MAX_SIZE = 512 << 20


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
    text = json.dumps(written.to_dict(), indent=1).encode()
    store = MemoryStore({SIDECAR: text})
    sink = await stores.sink(_beside(destination) if single else destination, single)
    await transfer(store, [sink], await store.list(), replace(context, observer=None))


async def read_sidecar(
    stores: StoreRegistry, location: Location, origin: LocationSource
) -> Manifest | None:
    """Return the manifest stored in the folder `location` or beside the file; None if none is.

    It is asked for by its name, since it can be anywhere in a listing.

    Args:
        stores: of the client.
        location: what the manifest describes.
        origin: the source of `location`, of which a page has been listed.

    Raises:
        IntegrityError: if the sidecar is not a valid manifest.
    """
    if isinstance(location, HubLocation):
        return None if origin.single else await _read_from_hub(stores, location, origin)
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
    return await _read(beside, found[0]) if found else None


async def _read_from_hub(
    stores: StoreRegistry, location: HubLocation, origin: LocationSource
) -> Manifest | None:
    source = await stores.hub_source(replace(location, revision=origin.commit))
    path = f"{location.path}/{SIDECAR}" if location.path else SIDECAR
    try:
        entry = await source.find(path)
    except NotFoundError:
        return None
    return await _read(source, entry)


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


async def _read(source: Source, entry: Entry) -> Manifest:
    """Return the manifest stored as `entry` of `source`.

    Raises:
        IntegrityError: if it is not a valid manifest.
    """
    what = f"{source.location}: {entry.path}"
    if entry.size > _MAX_SIZE:
        raise IntegrityError(
            f"{what} is not a manifest: it has {entry.size} bytes, the limit is {_MAX_SIZE}"
        )
    buffer = bytearray(entry.size)
    if buffer:
        await source.fill(entry, ByteRangeBuffer(0, memoryview(buffer)))
    try:
        value = json.loads(buffer)
    except ValueError as error:
        raise IntegrityError(f"{what} is not a manifest: {error}") from error
    return Manifest.from_dict(value)
