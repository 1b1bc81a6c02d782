"""The files that are moved: made once below the work directory, compared byte for byte."""

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

__all__ = ("FileSpec", "difference", "make_payload", "require_space", "scaled", "warm")

_BLOCK = 1 << 20
_STAMP_EVERY = 8 << 20


@dataclass(frozen=True)
class FileSpec:
    """One file of a payload.

    Attributes:
        path: relative POSIX path.
        size: bytes.
        kind: ``random`` bytes, ``text`` that no Hub would keep in LFS, or ``sparse``: holes with
            a stamp every 8 MiB, which take no room on the disk.
    """

    path: str
    size: int
    kind: Literal["random", "text", "sparse"] = "random"


def scaled(specs: Sequence[FileSpec], scale: float) -> tuple[FileSpec, ...]:
    """Return the specs with sizes multiplied by `scale`, or with fewer files if they are many.

    Raises:
        ValueError: `scale` is not above 0.
    """
    if scale <= 0:
        raise ValueError(f"a scale must be above 0, not {scale:g}")
    if scale == 1:
        return tuple(specs)
    if len(specs) > 100:
        return tuple(specs[: max(1, round(len(specs) * scale))])
    return tuple(FileSpec(spec.path, max(1, round(spec.size * scale)), spec.kind) for spec in specs)


def make_payload(specs: Sequence[FileSpec], payloads: Path) -> Path:
    """Return a folder below `payloads` with these files, made now unless it is there already."""
    description = json.dumps([asdict(spec) for spec in specs])
    folder = payloads / hashlib.sha256(description.encode()).hexdigest()[:12]
    marker = folder.with_name(folder.name + ".json")
    if marker.exists():
        return folder
    for seed, spec in enumerate(specs):
        path = folder / spec.path
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, spec, seed)
    marker.write_text(description)
    return folder


def require_space(folder: Path, specs: Sequence[FileSpec]) -> None:
    """Refuse to begin what the disk cannot hold: the payload and one copy of it.

    Raises:
        ValueError: there is too little room; the message says how much is needed.
    """
    needed = sum(spec.size * (1 if spec.kind == "sparse" else 2) for spec in specs) * 105 // 100
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed: "
            "name another place with --work-dir, or shrink with --scale"
        )


def _write(path: Path, spec: FileSpec, seed: int) -> None:
    with path.open("wb") as file:
        if spec.kind == "random":
            # Every byte is fresh: RandomFile repeats its blocks, and Xet stores each but once.
            for start in range(0, spec.size, _BLOCK):
                file.write(os.urandom(min(_BLOCK, spec.size - start)))
        elif spec.kind == "text":
            digits = random.Random(seed).randbytes(spec.size // 2 + 1).hex()
            file.write(("{" + digits)[: spec.size - 1].encode() + b"\n")
        else:
            os.truncate(file.fileno(), spec.size)
            for start in range(0, spec.size - 8, _STAMP_EVERY):
                os.pwrite(file.fileno(), (start + 1).to_bytes(8, "little"), start)


def warm(folder: Path) -> None:
    """Make the first run no different from the others.

    Every file is read once, so that the server's reads come from memory. As much is written
    once and removed: in a virtual machine the first use of a page of memory is dear, and no
    tool is to pay for it.
    """
    buffer = bytearray(_BLOCK)
    written = folder.with_name("written-once")
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with written.open("wb", buffering=0) as file:
        for _ in range(0, min(total, memory // 2), _BLOCK):
            file.write(buffer)
    written.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def difference(source: Path, copy: Path, names: Sequence[str]) -> str | None:
    """Return how `copy` differs from `source` in the files `names`, or None if it does not."""
    for name in names:
        theirs = copy / name
        if not theirs.is_file():
            return f"{name} is missing"
        expected, got = (source / name).stat().st_size, theirs.stat().st_size
        if expected != got:
            return f"{name} has {got} bytes in place of {expected}"
        if (at := _first_difference(source / name, theirs)) is not None:
            return f"{name} differs within the MiB at byte {at}"
    return None


def _first_difference(one: Path, other: Path) -> int | None:
    with one.open("rb", buffering=0) as a, other.open("rb", buffering=0) as b:
        for start in range(0, os.fstat(a.fileno()).st_size, _BLOCK):
            if os.pread(a.fileno(), _BLOCK, start) != os.pread(b.fileno(), _BLOCK, start):
                return start
    return None
