"""`hftransfer._core.manifest`: the JSON form, and the detection of damage."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.digests import Digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer.errors import IntegrityError

_xxh3 = st.text("0123456789abcdef", min_size=32, max_size=32)


@st.composite
def _files(draw: st.DrawFn, least: int = 0) -> FileManifest:
    chunks = draw(st.lists(_xxh3, min_size=least, max_size=5))
    chunk_size = draw(st.integers(1, 1 << 24))
    missing = draw(st.integers(0, chunk_size - 1)) if chunks else 0
    digest = draw(st.none() | st.builds(Digest, st.just("sha256"), st.just("ab" * 32)))
    return FileManifest(
        size=len(chunks) * chunk_size - missing,
        chunk_size=chunk_size,
        chunks=tuple(chunks),
        digest=digest,
    )


_manifests = st.builds(
    Manifest,
    source=st.text(),
    files=st.dictionaries(st.text(), _files(), max_size=4),
    commit=st.none() | st.text("0123456789abcdef", min_size=40, max_size=40),
)


@given(_manifests)
def test_json_round_trip(manifest: Manifest) -> None:
    """A manifest that is written as JSON and read again is equal."""
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest


@given(_manifests)
def test_files_are_written_in_sorted_order(manifest: Manifest) -> None:
    """The same files give the same text, in whatever order they were added."""
    reordered = Manifest(
        source=manifest.source,
        files=dict(reversed(list(manifest.files.items()))),
        commit=manifest.commit,
    )

    assert json.dumps(reordered.to_dict()) == json.dumps(manifest.to_dict())


def _form(entry: FileManifest) -> dict[str, Any]:
    return Manifest(source="hf://o/n", files={"f": entry}).to_dict()


def _assert_damaged(form: Any) -> None:
    with pytest.raises(IntegrityError, match="damaged manifest"):
        Manifest.from_dict(form)


@given(entry=_files(), data=st.data())
def test_a_missing_key_is_damage(entry: FileManifest, data: st.DataObject) -> None:
    """Every key of the documented form is required."""
    form = _form(entry)
    inside = data.draw(st.sampled_from([form, form["files"]["f"]]))
    del inside[data.draw(st.sampled_from(sorted(inside)))]

    _assert_damaged(form)


@given(entry=_files(least=1), data=st.data())
def test_a_changed_chunk_digest_is_damage(entry: FileManifest, data: st.DataObject) -> None:
    """One changed hex digit, a missing chunk and an additional chunk are detected."""
    form = _form(entry)
    chunks: list[str] = form["files"]["f"]["chunks"]
    index = data.draw(st.integers(0, len(chunks) - 1))
    damage = data.draw(st.sampled_from(["digit", "less", "more"]))
    if damage == "digit":
        position = data.draw(st.integers(0, 31))
        old = chunks[index]
        new = format(int(old[position], 16) ^ data.draw(st.integers(1, 15)), "x")
        chunks[index] = old[:position] + new + old[position + 1 :]
    elif damage == "less":
        del chunks[index]
    else:
        chunks.insert(index, chunks[index])

    _assert_damaged(form)


@given(entry=_files(least=1), grow=st.booleans())
def test_a_size_that_does_not_match_the_chunks_is_damage(entry: FileManifest, grow: bool) -> None:
    """Size, chunk size and the number of chunks must agree."""
    form = _form(entry)
    form["files"]["f"]["size"] += entry.chunk_size if grow else -entry.chunk_size

    _assert_damaged(form)


_wrong_values: list[tuple[str, Any]] = [
    ("size", None),
    ("size", "many"),
    ("size", -1),
    ("size", float("inf")),  # json reads 1e999 as this
    ("chunk_size", 0),
    ("chunk_size", -8),
    ("chunk_size", []),
    ("chunks", None),
    ("chunks", "ab" * 16),
    ("chunks", [None]),
    ("chunks", ["not hex"]),
    ("digest", "no colon"),
    ("digest", 5),
    ("xxh3", None),
    ("xxh3", "0" * 32),
]


@pytest.mark.parametrize(("key", "value"), _wrong_values)
@pytest.mark.parametrize("chunks", [(), ("0f" * 16,)], ids=["empty-file", "one-chunk"])
def test_a_wrong_value_of_a_file_is_damage(key: str, value: Any, chunks: tuple[str, ...]) -> None:
    """Wrong types and ranges are reported as damage, not as an internal TypeError."""
    form = _form(FileManifest(size=len(chunks), chunk_size=1 << 20, chunks=chunks))
    form["files"]["f"][key] = value

    _assert_damaged(form)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", "other"), ("version", 2), ("files", None), ("files", []), ("files", {"f": "x"})],
)
def test_another_format_or_version_is_rejected(key: str, value: Any) -> None:
    """A manifest of a later version is not read in part."""
    form = copy.deepcopy(_form(FileManifest(size=0, chunk_size=1, chunks=())))
    form[key] = value

    _assert_damaged(form)


@pytest.mark.parametrize("form", [None, [], "text", 5, {}])
def test_other_json_is_not_a_manifest(form: Any) -> None:
    """Any JSON is a manifest or raises IntegrityError."""
    _assert_damaged(form)
