"""Manifests that lie with what they describe: in a folder, or beside a single file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from hftransfer._client.registry import ListedSource, OpenStores
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
"""Name of the manifest in a folder, and end of its name beside a single file."""
# No manifest is as long: a petabyte in chunks of 8 MiB is 4 GB, a terabyte 4 MB.
_LONGEST = 512 << 20


async def write_sidecar(
    stores: OpenStores, goal: Location, single: bool, manifest: Manifest, context: Context
) -> None:
    """Write `manifest` into the folder `goal`, or beside the file that `goal` is with `single`."""
    written = _renamed(manifest, goal) if single else manifest
    text = json.dumps(written.to_dict(), indent=1).encode()
    store = MemoryStore({SIDECAR: text})
    sink = await stores.sink(_beside(goal) if single else goal, single)
    await transfer(store, [sink], await store.list(), replace(context, observer=None))


async def read_sidecar(
    stores: OpenStores, place: Location, origin: ListedSource, listed: Sequence[Entry]
) -> Manifest | None:
    """Return the manifest that lies in or beside `place`, or None.

    Args:
        stores: of the client.
        place: what the manifest describes.
        origin: the store of `place`, after its listing.
        listed: all that is there.

    Raises:
        IntegrityError: if what lies there is no manifest.
    """
    for entry in listed:
        if entry.path == SIDECAR:
            return await _read(origin, entry)
    if not origin.single or isinstance(place, HubLocation | MemoryLocation):
        return None
    beside = await stores.source(_beside(place))
    try:
        (entry,) = await beside.list()
    except (NotFoundError, ValueError):
        return None
    return await _read(beside, entry)


def _beside(location: Location) -> Location:
    """Return where the manifest of the single file at `location` lies."""
    if isinstance(location, S3Location):
        return replace(location, key=location.key + SIDECAR)
    if isinstance(location, LocalLocation):
        return replace(location, path=location.path.with_name(location.path.name + SIDECAR))
    raise UnsupportedError(f"{location}: nothing can lie beside it")


def _renamed(manifest: Manifest, location: Location) -> Manifest:
    """Return the manifest of one file under the name that it has at `location`."""
    name = str(location).rpartition("/")[2]
    (file,) = manifest.files.values()
    return replace(manifest, files={name: file})


async def _read(source: Source, entry: Entry) -> Manifest:
    """Return the manifest that is stored as `entry`.

    Raises:
        IntegrityError: if it is none.
    """
    what = f"{source.location}: {entry.path}"
    if entry.size > _LONGEST:
        raise IntegrityError(f"{what} is too long for a manifest")
    buffer = bytearray(entry.size)
    if buffer:
        await source.fill(entry, ByteRangeBuffer(0, memoryview(buffer)))
    try:
        value = json.loads(buffer)
    except ValueError as error:
        raise IntegrityError(f"{what} is no manifest: {error}") from error
    return Manifest.from_dict(value)
