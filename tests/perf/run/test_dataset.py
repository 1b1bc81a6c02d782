"""Data sets: generation, scaling and comparison."""

from __future__ import annotations

from pathlib import Path

from perf.run.dataset import FileSpec, create_dataset, difference, scaled


def test_a_data_set_is_created_once(tmp_path: Path) -> None:
    """The same files are found again; other files get another directory."""
    files = (
        FileSpec("a/b.bin", 3_000_000),
        FileSpec("c.json", 1000, "text"),
        FileSpec("d.bin", 20_000_000, "sparse"),
    )
    folder = create_dataset(files, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    assert create_dataset(files, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert create_dataset(scaled(files, 0.5), tmp_path) != folder
    assert [(folder / file.path).stat().st_size for file in files] == [f.size for f in files]
    assert (folder / "c.json").read_text().isascii()
    assert (folder / "d.bin").stat().st_blocks * 512 < 1_000_000
    assert difference(folder, folder, [file.path for file in files]) is None


def test_a_difference_is_described(tmp_path: Path) -> None:
    """A file may be missing, have another size or other bytes."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "a").write_bytes(bytes(3_000_000))
    (other / "a").write_bytes(bytes(2_999_999) + b"x")
    (one / "b").write_bytes(b"12")
    (other / "b").write_bytes(b"1")
    (one / "c").write_bytes(b"")

    assert difference(one, other, ["a"]) == "a differs within the MiB at byte 2097152"
    assert difference(one, other, ["b"]) == "b has 1 bytes, expected 2"
    assert difference(one, other, ["c"]) == "c is missing"


def test_scaling_keeps_the_kind_of_a_scenario() -> None:
    """Large files become smaller; of many small files, fewer remain with their size."""
    assert scaled((FileSpec("a", 1000),), 0.1) == (FileSpec("a", 100),)
    assert scaled((FileSpec("a", 3),), 0.001)[0].size == 1
    assert len(scaled([FileSpec(str(i), 50_000) for i in range(3000)], 0.01)) == 30
