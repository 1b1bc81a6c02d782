"""`hftransfer._hub_compat.tree`: cached listings, as huggingface_hub reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.digests import Digest
from hftransfer._hub_compat.tree import CachedTree, TreeWriter
from hftransfer.stores.base import Entry

_SHA256 = "5" * 64

_hex = st.characters(codec="ascii", categories=(), include_characters="0123456789abcdef")
_segment = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\\"),
    min_size=1,
    max_size=20,
).filter(lambda text: text not in (".", "..") and not text.endswith((" ", ".")) and ":" not in text)
_paths = st.lists(_segment, min_size=1, max_size=3).map("/".join)


@st.composite
def _entries(draw: st.DrawFn, path: str) -> Entry:
    blob_id = draw(st.text(_hex, min_size=40, max_size=40))
    properties = {"blob-id": blob_id}
    digest = Digest("git-sha1", blob_id)
    if draw(st.booleans()):
        sha256 = draw(st.text(_hex, min_size=64, max_size=64))
        digest = Digest("sha256", sha256)
        properties["lfs-sha256"] = sha256
        if draw(st.booleans()):
            properties["xet-hash"] = draw(st.text(_hex, min_size=64, max_size=64))
    size = draw(st.integers(0, 2**50))
    return Entry(path=path, size=size, digest=digest, properties=properties)


def write_tree(path: Path, *pages: Iterable[Entry]) -> None:
    writer = TreeWriter(path)
    for page in pages:
        writer.add(list(page))
    writer.commit()


def read_tree(path: Path) -> list[Entry] | None:
    tree = CachedTree.open(path)
    return None if tree is None else list(tree)


def regular(path: str = "config.json") -> Entry:
    properties = {"blob-id": "a" * 40}
    return Entry(path=path, size=2, digest=Digest("git-sha1", "a" * 40), properties=properties)


@given(data=st.data(), paths=st.lists(_paths, unique=True, max_size=5))
def test_a_written_listing_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, paths: list[str]
) -> None:
    """Paths, sizes and all digests are read as they were written, in order."""
    file = tmp_path_factory.mktemp("trees") / "tree.json"
    entries = [data.draw(_entries(path)) for path in paths]

    write_tree(file, entries[:2], entries[2:])

    assert read_tree(file) == entries


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format_version": 2, "files": {}}',
        '{"format_version": 1}',
        '{"format_version": 1, "files": {"a": {"size": 1}}}',
        '{"format_version": 1, "files": {"../a": {"size": 1, "blob_id": "b"}}}',
        '{"format_version": 1, "files": {"a": {"size": 1, "blob_id": "b", "xet_hash": "***"}}}',
    ],
)
def test_an_invalid_listing_is_ignored(tmp_path: Path, text: str) -> None:
    """A truncated, newer, masked or malicious listing is read as None: it is requested again."""
    file = tmp_path / "tree.json"
    file.write_text(text)

    assert read_tree(file) is None


def test_a_listing_with_masked_hashes_is_not_written(tmp_path: Path) -> None:
    """The Hub may return ``***`` for Xet hashes; a commit's cached listing is never renewed."""
    masked = Entry(
        path="a", size=1, digest=Digest("sha256", _SHA256), properties={"xet-hash": "*" * 64}
    )

    write_tree(tmp_path / "tree.json", [masked])

    assert list(tmp_path.iterdir()) == []


def test_a_listing_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only cache can be used, so this is not an error."""
    (tmp_path / "trees").write_text("a file, not a folder")

    write_tree(tmp_path / "trees" / "tree.json", [regular()])

    assert "cannot cache the listing" in caplog.text


def test_a_listing_has_huggingface_hubs_format(tmp_path: Path) -> None:
    """The JSON has the fields of format version 1, for LFS files and others."""
    large = Entry(
        path="model.safetensors",
        size=9,
        digest=Digest("sha256", _SHA256),
        properties={"blob-id": "b" * 40, "lfs-sha256": _SHA256, "xet-hash": "e" * 64},
    )

    write_tree(tmp_path / "tree.json", [large, regular()])

    assert json.loads((tmp_path / "tree.json").read_text()) == {
        "format_version": 1,
        "files": {
            "config.json": {"size": 2, "blob_id": "a" * 40},
            "model.safetensors": {
                "size": 9,
                "blob_id": "b" * 40,
                "lfs_sha256": _SHA256,
                "lfs_size": 9,
                "xet_hash": "e" * 64,
            },
        },
    }


def test_a_listing_that_is_not_complete_leaves_nothing(tmp_path: Path) -> None:
    """A failed request for its second page: no file, also no temporary one."""
    writer = TreeWriter(tmp_path / "trees" / "tree.json")
    writer.add([regular()])
    writer.abandon()
    writer.abandon()

    assert list((tmp_path / "trees").iterdir()) == []
