"""`hftransfer._core.manifest_records`: a mapping that takes little memory."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.digests import Digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.manifest_records import ManifestRecords

_CHUNK = st.binary(min_size=16, max_size=16).map(bytes.hex)


@st.composite
def _manifests(draw: st.DrawFn) -> FileManifest:
    chunks = draw(st.lists(_CHUNK, max_size=3))
    size = draw(st.integers(0, 2**60))
    digest = draw(st.none() | st.just(Digest("sha256", "ab" * 32)))
    return FileManifest(size=size, chunk_size=1 << 20, chunks=tuple(chunks), digest=digest)


@given(
    files=st.dictionaries(st.text(max_size=40), _manifests(), max_size=30),
    absent=st.text(),
    memory=st.sampled_from([0, 300, 1 << 20]),
)
def test_it_is_the_mapping_of_what_was_added(
    files: dict[str, FileManifest], absent: str, memory: int
) -> None:
    """In memory, in a file, and partly first in one and then in the other."""
    records = ManifestRecords(memory)
    for path, manifest in files.items():
        records.add(path, manifest)

    assert list(records) == list(files)
    assert records == files
    assert len(records) == len(files)
    assert (absent in records) == (absent in files)
    assert pickle.loads(pickle.dumps(records)) == copy.deepcopy(records) == files  # noqa: S301


def test_a_manifest_of_records_has_the_same_json_form() -> None:
    """Also when records are added between two look-ups."""
    one = FileManifest(size=5, chunk_size=8, chunks=("ab" * 16,))
    records = ManifestRecords()
    records.add("b", one)
    assert records["b"] == one
    records.add("a", one)

    manifest = Manifest(source="memory://", files=records)

    assert manifest == Manifest.from_dict(manifest.to_dict())


def test_records_of_many_files_are_on_the_disk(tmp_path: Path) -> None:
    """Long paths and files of many chunks cross the blocks in which the file is read."""
    records = ManifestRecords(1000)
    chunks = tuple(f"{index:032x}" for index in range(5000))
    for index in range(50):
        manifest = FileManifest(size=index, chunk_size=8, chunks=chunks[: 100 * index])
        records.add(f"{index}/" + "x" * 1000, manifest)

    assert not isinstance(records._file, io.BytesIO)
    assert [manifest.size for manifest in records.values()] == list(range(50))
    assert len(records["49/" + "x" * 1000].chunks) == 4900


def test_without_room_for_a_temporary_file_the_records_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full or missing temporary folder does not fail a transfer."""

    def refuse(**options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    records = ManifestRecords(100)
    for index in range(10):
        records.add(f"file-{index}", FileManifest(size=index, chunk_size=8, chunks=()))

    assert [(path, each.size) for path, each in records.items()] == [
        (f"file-{index}", index) for index in range(10)
    ]
