"""Copies from S3 to S3 in which the store moves the bytes by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio

from hftransfer._core.events import BytesMoved, FileFinished, FileStarted, TransferStarted, emit
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context
from hftransfer.errors import UnsupportedError, single_error
from hftransfer.report import Report
from hftransfer.stores.base import Entry, Sink, Source
from hftransfer.stores.s3.copy import ServerCopy
from hftransfer.stores.s3.store import S3Sink, S3Source

__all__ = ("copy_within_s3",)

# Objects under way at a time: each is one request that waits for the store.
_AT_A_TIME = 32


async def copy_within_s3(
    source: Source, sinks: Sequence[Sink], entries: Sequence[Entry], context: Context
) -> Report | None:
    """Have the store copy `entries` into every one of `sinks`, or return None if it does not.

    Raises:
        TransferError: the first failure; further ones are its notes.
    """
    goals = [sink for sink in sinks if isinstance(sink, S3Sink)]
    if not isinstance(source, S3Source) or len(goals) != len(sinks):
        return None
    started = time.perf_counter()
    for sink in goals:
        await sink.prepare(entries)
    copier = ServerCopy(source.session)
    line = anyio.CapacityLimiter(context.options.connections or _AT_A_TIME)
    moved = 0

    async def copy(entry: Entry) -> None:
        nonlocal moved
        async with line:
            emit(context.observer, FileStarted(entry.path, entry.size))
            for sink in goals:
                await copier.copy(source.object_of(entry), sink.object_of(entry), entry)
                moved += entry.size
            emit(context.observer, BytesMoved(entry.path, entry.size))
            emit(context.observer, FileFinished(entry.path, entry.size, skipped=False))

    emit(context.observer, TransferStarted(len(entries), sum(entry.size for entry in entries)))
    # A store that does not copy says so the first time; copying in parts is the rarer ability.
    ordered = sorted(entries, key=lambda entry: entry.size, reverse=True)
    try:
        for first in ordered[:1]:
            await copy(first)
        with single_error():
            async with anyio.create_task_group() as tasks:
                for entry in ordered[1:]:
                    tasks.start_soon(copy, entry)
    except UnsupportedError:
        return None
    return Report(
        source=source.location,
        destinations=tuple(sink.location for sink in sinks),
        files=len(entries),
        server_side_bytes=moved,
        seconds=time.perf_counter() - started,
        manifest=Manifest(source=source.location),
    )
