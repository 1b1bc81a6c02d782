"""The steps of `AsyncClient.copy`: list, select, open the sinks, move, record the manifest.

The first page of the listing shows whether the source is a file or a folder, so that the sinks can
be opened. The engine requests the others while it moves files.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from anyio import to_thread

from hftransfer._client.bad_names import NameFilter, OnBadName
from hftransfer._client.overlap import outside_of, refuse_same_files, roots_in_source
from hftransfer._client.registry import StoreRegistry
from hftransfer._client.selection import Selection, started, with_manifest
from hftransfer._client.sidecar import without_sidecar, write_sidecar
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context, Files, transfer
from hftransfer.errors import LocationError, OptionsError
from hftransfer.locations import HubLocation, LocalLocation, Location, S3Location
from hftransfer.report import Report
from hftransfer.stores.base import listing_pages
from hftransfer.stores.null import NullSink

__all__ = ("check_destinations", "copy_files")


def check_destinations(destinations: Sequence[Location]) -> None:
    """Refuse locations that files cannot be copied to.

    Raises:
        OptionsError: if there is no destination.
        LocationError: if a destination is on the Hub.
    """
    if not destinations:
        raise OptionsError("copy needs at least one destination")
    for destination in destinations:
        if isinstance(destination, HubLocation):
            raise LocationError(f"{destination}: files cannot be uploaded to the Hub")


async def copy_files(
    stores: StoreRegistry,
    source: Location,
    destinations: Sequence[Location],
    selection: Selection,
    context: Context,
    *,
    manifest: Manifest | None,
    sidecar: bool,
    on_bad_name: OnBadName,
) -> Report:
    """Implement `AsyncClient.copy` for parsed locations; the arguments are those of `copy`."""
    await to_thread.run_sync(refuse_same_files, source, destinations)
    origin = await stores.source(source)
    pages = await started(listing_pages(origin))
    if not origin.single and (
        inner := await to_thread.run_sync(roots_in_source, source, destinations)
    ):
        pages = outside_of(inner, pages)
    if sidecar and not origin.single:
        pages = without_sidecar(pages)  # the destinations get one of their own
    selected = selection.pages(pages)
    files: Files = selected
    if manifest is not None:
        # It names all files, so a difference is found before any byte is moved.
        entries = [entry async for page in selected for entry in page.entries]
        files = with_manifest(entries, manifest, origin.location)
    # For each destination: is it the name of the one file, or the folder it goes into?
    names_file = [origin.single and await _names_file(each) for each in destinations]
    sinks = [await stores.sink(*each) for each in zip(destinations, names_file, strict=True)]
    names = NameFilter(sinks, on_bad_name)
    report = await transfer(
        origin,
        sinks,
        names.pages(files) if isinstance(files, AsyncGenerator) else names.select(files),
        context,
        complete=stores.completion(
            origin,
            digests="large" if context.options.verify else "none",
            properties=any(isinstance(each, S3Location) for each in destinations),
        ),
        # A manifest, to check or to write, has digests of the bytes: they must pass through here.
        server_side=manifest is None and not sidecar,
        recorder=NullSink() if sidecar else None,
    )
    if sidecar:
        for destination, single in zip(destinations, names_file, strict=True):
            await write_sidecar(stores, destination, single, report.manifest, context)
    return replace(report, skipped_names=names.skipped)


async def _names_file(location: Location) -> bool:
    """Return True if a single file is copied to `location` itself, False if into it."""
    if isinstance(location, S3Location):
        return location.key != "" and not location.key.endswith("/")
    if isinstance(location, LocalLocation):
        return not location.as_folder and not await to_thread.run_sync(os.path.isdir, location.path)
    return False
