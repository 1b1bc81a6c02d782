"""`hftransfer._core.manifest_json`: the JSON form of a manifest, file by file."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hftransfer._core import manifest_records
from hftransfer._core.digests import Digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.manifest_json import manifest_text, read_manifest
from hftransfer._core.manifest_records import ManifestRecords
from hftransfer.errors import IntegrityError

_CHUNKS = st.lists(st.binary(min_size=16, max_size=16).map(bytes.hex), max_size=3)
_FILES = st.builds(
    lambda chunks, digest: FileManifest(
        size=8 * len(chunks), chunk_size=8, chunks=tuple(chunks), digest=digest
    ),
    _CHUNKS,
    st.none() | st.just(Digest("sha256", "ab" * 32)),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=st.dictionaries(st.text(max_size=5), _FILES, max_size=8),
    commit=st.none() | st.text(max_size=4),
    run=st.integers(1, 9),
    are_records=st.booleans(),
)
def test_the_text_is_that_of_the_whole_value_and_is_read_again(
    files: dict[str, FileManifest], commit: str | None, run: int, are_records: bool
) -> None:
    """Byte for byte, whatever the order of the records; also in runs that are merged."""
    records = ManifestRecords(100)
    for path, file in files.items():
        records.add(path, file)
    manifest = Manifest(source="{}", files=records if are_records else files, commit=commit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_records, "_RUN_LENGTH", run)
        text = "".join(manifest_text(manifest))

    assert text == json.dumps(manifest.to_dict(), indent=1)
    assert read_manifest(io.StringIO(text)) == manifest


def _value() -> dict[str, Any]:
    file = FileManifest(size=5, chunk_size=8, chunks=("ab" * 16,))
    return Manifest(source="memory://", files={"a": file}).to_dict()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps(_value())[:-1],
        json.dumps(_value()) + "x",
        json.dumps({**_value(), "version": 2}),
        json.dumps({**_value(), "files": ["a"]}),
        json.dumps({**_value(), "files": {"a": {}}}),
        json.dumps({key: each for key, each in _value().items() if key != "files"}),
        json.dumps(_value()).replace('"a": {', '"a": {"size": 0}, "a": {'),
        json.dumps(_value()).replace('"size": 5', '"size": 500'),
    ],
)
def test_a_text_that_is_no_manifest_is_damaged(text: str) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(IntegrityError):
        read_manifest(io.StringIO(text))


def test_the_members_may_have_any_order() -> None:
    """As those of any JSON object, and unknown ones are ignored, as in `Manifest.from_dict`."""
    value = dict(reversed({**_value(), "later": [1]}.items()))

    assert read_manifest(io.StringIO(json.dumps(value))) == Manifest.from_dict(value)
