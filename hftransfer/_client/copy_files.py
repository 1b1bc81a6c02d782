"""Copies from one location to others: what is moved, under which names, and by whom."""

from __future__ import annotations

from collections.abc import Sequence

from anyio import to_thread

from hftransfer._client.registry import ListedSource, OpenStores
from hftransfer._client.selection import Selection, with_manifest
from hftransfer._client.sidecar import write_sidecar
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context, transfer
from hftransfer.errors import LocationError, OptionsError
from hftransfer.locations import HubLocation, LocalLocation, Location, S3Location
from hftransfer.report import Report
from hftransfer.stores.base import Entry

__all__ = ("check_goals", "copy_to")


def check_goals(goals: Sequence[Location]) -> None:
    """Refuse destinations that nothing can be copied to.

    Raises:
        OptionsError: if there are none.
        LocationError: if one is on the Hub.
    """
    if not goals:
        raise OptionsError("copy needs at least one destination")
    for goal in goals:
        if isinstance(goal, HubLocation):
            raise LocationError(f"{goal}: files cannot be uploaded to the Hub")


async def copy_to(
    stores: OpenStores,
    source: Location,
    goals: Sequence[Location],
    selection: Selection,
    context: Context,
    *,
    manifest: Manifest | None,
    sidecar: bool,
) -> Report:
    """Do what `AsyncClient.copy` says."""
    origin = await stores.source(source)
    entries = selection.entries(await origin.list())
    if manifest is not None:
        entries = with_manifest(entries, manifest, origin.location)
    within_s3 = all(isinstance(goal, S3Location) for goal in goals)
    entries = await _described(stores, origin, entries, goals, context)
    alone = [origin.single and await _takes_a_name(goal) for goal in goals]
    sinks = [await stores.sink(*each) for each in zip(goals, alone, strict=True)]
    if manifest is None and not sidecar and within_s3 and isinstance(source, S3Location):
        from hftransfer._client.server_side_copy import copy_within_s3

        if (report := await copy_within_s3(origin, sinks, entries, context)) is not None:
            return report
    report = await transfer(origin, sinks, entries, context)
    if sidecar:
        for goal, single in zip(goals, alone, strict=True):
            await write_sidecar(stores, goal, single, report.manifest, context)
    return report


async def _described(
    stores: OpenStores,
    origin: ListedSource,
    entries: Sequence[Entry],
    goals: Sequence[Location],
    context: Context,
) -> Sequence[Entry]:
    """Return `entries` with what S3 tells about objects only one by one, where it is of use."""
    if context.options.verify:
        entries = await stores.with_digests(origin, entries)
    if any(isinstance(goal, S3Location) for goal in goals):
        entries = await stores.with_properties(origin, entries)
    return entries


async def _takes_a_name(location: Location) -> bool:
    """Return True if a single file gets the name of `location`, rather than a place below it."""
    if isinstance(location, S3Location):
        return location.key != "" and not location.key.endswith("/")
    if isinstance(location, LocalLocation):
        return not location.as_folder and not await to_thread.run_sync(location.path.is_dir)
    return False
