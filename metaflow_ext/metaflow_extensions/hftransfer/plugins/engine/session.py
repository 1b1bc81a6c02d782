"""The stores that an open client reaches, and what is expected of a stored folder's files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hftransfer
from hftransfer import IntegrityError, Manifest, Report
from hftransfer._core.digests import Digest
from hftransfer.locations import S3Location, parse_location
from hftransfer.stores.base import Entry, Sink
from hftransfer.stores.local.sink import LocalSink
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.null import NullSink
from metaflow_extensions.hftransfer.plugins.engine.manifests import (
    is_hub_metadata,
    is_manifest,
    recorded_files,
)
from metaflow_extensions.hftransfer.plugins.engine.reuse_sink import ReuseSink


@dataclasses.dataclass
class Session:
    """An open client, and the stores that it reaches."""

    client: hftransfer.AsyncClient

    async def with_all_files(
        self, report: Report, destination: str, entries: Sequence[Entry]
    ) -> Report:
        """Return `report` with the manifest of every one of `entries`.

        The engine does not read a file that the destination already has, so the report
        lacks its digests. Such files are read from the destination, and verified.
        """
        missing = {entry.path: entry for entry in entries}
        for path in report.manifest.files:
            missing.pop(path, None)
        if not missing:
            return report
        origin = await self.source(destination.rstrip("/") + "/")
        present = [
            dataclasses.replace(entry, digest=missing[entry.path].digest)
            for entry in await origin.list()
            if entry.path in missing
        ]
        read = await self.client.transfer(origin, [NullSink()], entries=present)
        files = {**report.manifest.files, **read.manifest.files}
        return dataclasses.replace(
            report, manifest=dataclasses.replace(report.manifest, files=files)
        )

    async def source(self, location: str) -> Any:
        """Return the store at a location, to read from."""
        parsed = parse_location(location)
        if isinstance(parsed, S3Location):
            from hftransfer.stores.s3.store import S3Source

            return S3Source(await self.client.s3_session(), parsed)
        return LocalSource(Path(location))

    async def folder(self, location: str, *, reuse: bool = True) -> Sink:
        """Return the folder or prefix at a location, to write to.

        With `reuse`, existing files of a local folder stay if they are right.
        """
        parsed = parse_location(location)
        if isinstance(parsed, S3Location):
            from hftransfer.stores.s3.store import S3Sink

            return S3Sink(await self.client.s3_session(), parsed)
        options = self.client.options
        how: dict[str, Any] = {"fsync": options.fsync, "direct_io": options.direct_io}
        if reuse:
            return ReuseSink(Path(location), self.client.buffers, **how)
        return LocalSink(Path(location), **how)

    async def file(self, location: str) -> Sink:
        """Return the single file or object at a location, to write to."""
        parsed = parse_location(location)
        if isinstance(parsed, S3Location):
            from hftransfer.stores.s3.store import S3Sink

            return S3Sink(await self.client.s3_session(), parsed, single=True)
        options = self.client.options
        return LocalSink(
            Path(location), single=True, fsync=options.fsync, direct_io=options.direct_io
        )


def expected_entries(listed: Sequence[Entry], document: object, source: str) -> list[Entry]:
    """Return the repository's files among `listed`, each with its expected digests.

    Parameters
    ----------
    listed : sequence of Entry
        All files of the stored folder.
    document : object
        The stored manifest, if there is one.
    source : str
        For messages.

    Raises
    ------
    IntegrityError
        If the listing shows that files are missing or have another size.
    """
    recorded = recorded_files(document)
    found = {entry.path: entry for entry in listed}
    if recorded is None:
        entries = [entry for entry in listed if not is_hub_metadata(entry.path)]
        if not entries:
            raise IntegrityError(f"{source} has no files")
        return entries
    missing = sorted(set(recorded) - set(found))
    if missing:
        raise IntegrityError(
            f"{source}: {len(missing)} of {len(recorded)} files are missing, the first is "
            f"{missing[0]!r}"
        )
    for path, (size, _) in recorded.items():
        if found[path].size != size:
            raise IntegrityError(
                f"{source}: {path!r}: expected {size} bytes, found {found[path].size}"
            )
    manifests = _file_manifests(document)
    return [
        dataclasses.replace(
            found[path],
            manifest=manifests.get(path),
            # A chunk's digest detects damage much sooner than the digest of the whole file.
            digest=None if digest is None or path in manifests else Digest.parse(digest),
        )
        for path, (_, digest) in recorded.items()
    ]


def _file_manifests(document: Any) -> dict[str, Any]:
    return dict(Manifest.from_dict(document).files) if is_manifest(document) else {}
