"""The checksums that object stores verify, made from chunks that arrive in any order. Pure.

``XXHASH128`` is the chunk's own digest in another notation, and free. CRCs of parts
combine to the CRC of the whole, so that a whole object is checked without reading it
again. CRC32 is ISA-L's where the package ``isal`` is installed (65 GB/s on a core that
does 7 with zlib's), else zlib's; CRC32C and CRC64NVME need the package ``awscrt`` and are
unknown without it. A checksum is bytes here, most significant first, and base64 in headers.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

__all__ = (
    "COMBINABLE",
    "Crc",
    "checksum",
    "combine_crcs",
    "decode_checksum",
    "element_name",
    "encode_checksum",
    "header_name",
    "supported_checksums",
    "upload_checksums",
)

# Width in bits and reflected polynomial.
_CRCS: Mapping[str, tuple[int, int]] = {
    "CRC64NVME": (64, 0x9A6C9329AC4BC9B5),
    "CRC32": (32, 0xEDB88320),
    "CRC32C": (32, 0x82F63B78),
}
COMBINABLE = ("CRC64NVME", "CRC32")
"""Those that every store which knows them takes as the checksum of a whole object."""


@cache
def _crcs() -> Mapping[str, Callable[[Any, int], int]]:
    """Name to function of data and the CRC so far, for the CRCs that can be made here."""
    found: dict[str, Callable[[Any, int], int]] = {}
    try:
        from isal import isal_zlib

        found["CRC32"] = isal_zlib.crc32
    except ImportError:
        found["CRC32"] = zlib.crc32
    try:
        from awscrt import checksums
    except ImportError:
        return found
    for name, attribute in (("CRC32C", "crc32c"), ("CRC64NVME", "crc64nvme")):
        if function := getattr(checksums, attribute, None):
            found[name] = function
    return found


def supported_checksums() -> Sequence[str]:
    """Return the names of all checksums that can be made here, the strongest first."""
    return ("XXHASH128", *(name for name in _CRCS if name in _crcs()))


def upload_checksums() -> Sequence[str]:
    """Return the names of what a store may be offered for an upload, the best first."""
    return ("XXHASH128", *(name for name in COMBINABLE if name in _crcs()))


def checksum(name: str, data: memoryview, digest: str) -> bytes:
    """Return the checksum `name` of `data`.

    Args:
        name: one of `supported_checksums`.
        data: hashed without the GIL, where it is large.
        digest: the XXH3-128 of `data` in hex.
    """
    if name == "XXHASH128":
        return bytes.fromhex(digest)
    return _crcs()[name](data, 0).to_bytes(_CRCS[name][0] // 8, "big")


class Crc:
    """A running CRC with hashlib's interface.

    Args:
        name: ``CRC32``, ``CRC32C`` or ``CRC64NVME``.

    Raises:
        ValueError: if it cannot be made here.
    """

    def __init__(self, name: str) -> None:
        if name not in _crcs():
            raise ValueError(f"unknown checksum {name!r}")
        self._function = _crcs()[name]
        self._digits = _CRCS[name][0] // 4
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = self._function(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


def header_name(name: str) -> str:
    """Return the header that carries the checksum `name`."""
    return f"x-amz-checksum-{name.lower()}"


def element_name(name: str) -> str:
    """Return the XML element that carries the checksum `name`."""
    return f"Checksum{name}"


def encode_checksum(value: bytes) -> str:
    """Return a checksum as headers and documents carry it."""
    return base64.b64encode(value).decode()


def decode_checksum(name: str, text: str) -> bytes | None:
    """Return the checksum that a header carries, or None if `text` is none of that name."""
    size = 16 if name == "XXHASH128" else _CRCS[name][0] // 8
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return value if len(value) == size else None


def combine_crcs(name: str, parts: Sequence[tuple[bytes, int]]) -> bytes:
    """Return the CRC of a whole from (CRC, length in bytes) of its parts, in order.

    Appending n bytes multiplies a CRC by x to the 8n-th, modulo the polynomial: see zlib's
    ``crc32_combine``.
    """
    width, polynomial = _CRCS[name]
    total = 0
    shifts: dict[int, int] = {}
    for value, length in parts:
        if length not in shifts:
            shifts[length] = _power_of_x(8 * length, width, polynomial)
        shifted = _multiply(shifts[length], total, width, polynomial)
        total = shifted ^ int.from_bytes(value, "big")
    return total.to_bytes(width // 8, "big")


def _multiply(a: int, b: int, width: int, polynomial: int) -> int:
    """Return the product of two reflected polynomials, modulo `polynomial`."""
    bit = 1 << (width - 1)
    product = 0
    while bit:
        if a & bit:
            product ^= b
        b = (b >> 1) ^ (polynomial if b & 1 else 0)
        bit >>= 1
    return product


def _power_of_x(exponent: int, width: int, polynomial: int) -> int:
    result, square = 1 << (width - 1), 1 << (width - 2)  # 1 and x
    while exponent:
        if exponent & 1:
            result = _multiply(square, result, width, polynomial)
        square = _multiply(square, square, width, polynomial)
        exponent >>= 1
    return result
