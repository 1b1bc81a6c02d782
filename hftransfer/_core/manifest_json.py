"""Manifests as JSON, file by file: the text of a million files is never in memory.

The form is that of `Manifest.to_dict`, with an indentation of one blank and sorted paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import indent
from typing import Any, TextIO

from hftransfer._core.json_stream import JsonStream
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.manifest_records import ManifestRecords, sorted_files
from hftransfer._core.path_set import PathSet
from hftransfer.errors import IntegrityError

__all__ = ("manifest_text", "read_manifest")


def manifest_text(manifest: Manifest) -> Iterator[str]:
    """Yield the JSON text of `manifest` in pieces, a file each."""
    head, _, tail = json.dumps(Manifest.to_dict(_without_files(manifest)), indent=1).rpartition(
        "{}"
    )
    if not manifest.files:
        yield f"{head}{{}}{tail}"
        return
    yield head
    before = "{"
    for path, file in sorted_files(manifest.files):
        value = indent(json.dumps(file.to_dict(), indent=1), "  ").lstrip()
        yield f"{before}\n  {json.dumps(path)}: {value}"
        before = ","
    yield f"\n }}{tail}"


def _without_files(manifest: Manifest) -> Manifest:
    return Manifest(source=manifest.source, commit=manifest.commit)


def read_manifest(file: TextIO) -> Manifest:
    """Return the manifest whose JSON text `file` has; see `Manifest.from_dict`.

    Its files are `ManifestRecords`.

    Args:
        file: open for reading, at the beginning of the text.

    Raises:
        IntegrityError: if the text is not a manifest, or is damaged.
    """
    stream = JsonStream(file)
    fields: dict[str, Any] = {}
    try:
        for name in stream.members():
            fields[name] = _read_files(stream) if name == "files" else stream.value()
        stream.end()
    except (
        *(KeyError, TypeError, ValueError, AttributeError, OverflowError),
        RecursionError,  # too many brackets
    ) as error:
        raise IntegrityError(f"damaged manifest: {error}") from error
    files = fields.get("files", {})
    head = Manifest.from_dict({**fields, "files": {}} if "files" in fields else fields)
    return Manifest(source=head.source, files=files, commit=head.commit)


def _read_files(stream: JsonStream) -> ManifestRecords:
    records = ManifestRecords()
    seen = PathSet()
    for path in stream.members():
        if not seen.add(path):
            raise ValueError(f"{path!r} has two entries")
        records.add(path, FileManifest.from_dict(stream.value()))
    return records
