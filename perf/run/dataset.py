"""The files that are transferred: generated once per work directory, compared byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = (
    "FileSpec",
    "create_dataset",
    "difference",
    "require_space",
    "scaled",
    "warm_page_cache",
)

_BLOCK = 1 << 20
_STAMP_EVERY = 8 << 20
_MANY_FILES = 100


@dataclass(frozen=True)
class FileSpec:
    """One file of a data set.

    Attributes:
        path: relative POSIX path.
        size: bytes.
        kind: ``random`` bytes; ``text``, which the Hub does not store in LFS; or ``sparse``: a
            hole with 8 non-zero bytes every 8 MiB, which takes almost no disk space.
    """

    path: str
    size: int
    kind: Literal["random", "text", "sparse"] = "random"


def scaled(files: Sequence[FileSpec], scale: float) -> tuple[FileSpec, ...]:
    """Return the files with sizes multiplied by `scale` or, above 100 files, fewer of them.

    Raises:
        ValueError: `scale` is not positive.
    """
    if scale <= 0:
        raise ValueError(f"a scale must be positive, not {scale:g}")
    if scale == 1:
        return tuple(files)
    if len(files) > _MANY_FILES:
        return tuple(files[: max(1, round(len(files) * scale))])
    return tuple(FileSpec(file.path, max(1, round(file.size * scale)), file.kind) for file in files)


def create_dataset(files: Sequence[FileSpec], datasets: Path) -> Path:
    """Return a directory below `datasets` with these files; create it if it does not exist."""
    description = json.dumps([asdict(file) for file in files])
    folder = datasets / hashlib.sha256(description.encode()).hexdigest()[:12]
    marker = folder.with_name(folder.name + ".json")
    if marker.exists():
        return folder
    for seed, file in enumerate(files):
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, file, seed)
    marker.write_text(description)
    return folder


def require_space(folder: Path, files: Sequence[FileSpec]) -> None:
    """Check that the disk has space for the data set and one copy of it, plus 5 %.

    Raises:
        ValueError: it has not; the message says how much is needed.
    """
    needed = sum(file.size * (1 if file.kind == "sparse" else 2) for file in files) * 105 // 100
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed: "
            "choose another directory with --work-dir, or smaller sizes with --scale"
        )


def _write(path: Path, file: FileSpec, seed: int) -> None:
    with path.open("wb") as output:
        if file.kind == "random":
            # hftransfer.testing.RandomFile repeats its blocks, which Xet would deduplicate.
            for start in range(0, file.size, _BLOCK):
                output.write(os.urandom(min(_BLOCK, file.size - start)))
        elif file.kind == "text":
            digits = random.Random(seed).randbytes(file.size // 2 + 1).hex()
            output.write(("{" + digits)[: file.size - 1].encode() + b"\n")
        else:
            os.truncate(output.fileno(), file.size)
            for start in range(0, file.size - 8, _STAMP_EVERY):
                os.pwrite(output.fileno(), (start + 1).to_bytes(8, "little"), start)


def warm_page_cache(folder: Path) -> None:
    """Prepare the memory so that the first run is not slower than the others.

    Reads every file once, so that the servers read from the page cache. Before that, writes a
    file of the same total size (at most half of the memory) and deletes it: in a virtual machine
    the first use of a memory page is slow, and no tool is to pay for it.
    """
    buffer = bytearray(_BLOCK)
    filler = folder.with_name("filler")
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with filler.open("wb", buffering=0) as file:
        for _ in range(0, min(total, memory // 2), _BLOCK):
            file.write(buffer)
    filler.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def difference(source: Path, copy: Path, names: Sequence[str]) -> str | None:
    """Return the first difference between two directories in the files `names`, or None."""
    for name in names:
        path = copy / name
        if not path.is_file():
            return f"{name} is missing"
        expected, got = (source / name).stat().st_size, path.stat().st_size
        if expected != got:
            return f"{name} has {got} bytes, expected {expected}"
        if (offset := _first_difference(source / name, path)) is not None:
            return f"{name} differs within the MiB at byte {offset}"
    return None


def _first_difference(one: Path, other: Path) -> int | None:
    """Return the offset of the first MiB in which two files of one size differ, or None."""
    with one.open("rb", buffering=0) as a, other.open("rb", buffering=0) as b:
        for start in range(0, os.fstat(a.fileno()).st_size, _BLOCK):
            if os.pread(a.fileno(), _BLOCK, start) != os.pread(b.fileno(), _BLOCK, start):
                return start
    return None
