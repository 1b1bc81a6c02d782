"""The steps of `AsyncClient.copy`: list, select, open the sinks, move, record the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anyio import to_thread

from hftransfer._client.bad_names import NameFilter, OnBadName
from hftransfer._client.registry import LocationSource, StoreRegistry
from hftransfer._client.selection import Selection, with_manifest
from hftransfer._client.sidecar import write_sidecar
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context, transfer
from hftransfer.errors import LocationError, OptionsError
from hftransfer.locations import HubLocation, LocalLocation, Location, S3Location
from hftransfer.report import Report
from hftransfer.stores.base import Entry

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
    origin = await stores.source(source)
    entries = selection.entries(await origin.list())
    if manifest is not None:
        entries = with_manifest(entries, manifest, origin.location)
    # For each destination: is it the name of the one file, or the folder it goes into?
    names_file = [origin.single and await _names_file(each) for each in destinations]
    sinks = [await stores.sink(*each) for each in zip(destinations, names_file, strict=True)]
    names = NameFilter(sinks, on_bad_name)
    entries = names.select(entries)
    entries = await _with_details(stores, origin, entries, destinations, context)
    within_s3 = all(isinstance(each, S3Location) for each in (source, *destinations))
    # A manifest, to check or to write, has digests of the bytes: they must pass through here.
    if within_s3 and manifest is None and not sidecar:
        from hftransfer._client.server_side_copy import copy_within_s3

        copied = await copy_within_s3(origin, sinks, entries, context)
        if copied is not None:
            report = copied.report
            if copied.remaining:
                report = copied.combined(await transfer(origin, sinks, copied.remaining, context))
            return replace(report, skipped_names=names.skipped)
    report = await transfer(origin, sinks, entries, context)
    if sidecar:
        for destination, single in zip(destinations, names_file, strict=True):
            await write_sidecar(stores, destination, single, report.manifest, context)
    return replace(report, skipped_names=names.skipped)


async def _with_details(
    stores: StoreRegistry,
    origin: LocationSource,
    entries: Sequence[Entry],
    destinations: Sequence[Location],
    context: Context,
) -> Sequence[Entry]:
    """Return `entries` with what S3 returns only object by object, if this copy uses it."""
    if context.options.verify:
        entries = await stores.with_digests(origin, entries)
    if any(isinstance(destination, S3Location) for destination in destinations):
        entries = await stores.with_properties(origin, entries)
    return entries


async def _names_file(location: Location) -> bool:
    """Return True if a single file is copied to `location` itself, False if into it."""
    if isinstance(location, S3Location):
        return location.key != "" and not location.key.endswith("/")
    if isinstance(location, LocalLocation):
        return not location.as_folder and not await to_thread.run_sync(location.path.is_dir)
    return False
