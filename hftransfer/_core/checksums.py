"""The checksums that S3 stores verify, computed from chunks that arrive in any order.

``XXHASH128`` is the XXH3-128 that every chunk has anyway. The CRCs of parts combine to the CRC of
the whole, so that an object is verified without reading it again. CRC32 comes from ISA-L if the
package ``isal`` is installed (65 GB/s on a core that reaches 7 GB/s with zlib), else from zlib.
CRC32C and CRC64NVME need the package ``awscrt`` and are not supported without it.

A checksum is bytes here, most significant first, and base64 in headers. The functions are pure
and release the GIL for large data.
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
"""CRCs that every store which supports them accepts as the checksum of a whole object."""


@cache
def _crcs() -> Mapping[str, Callable[[Any, int], int]]:
    """Return the supported CRCs: name to a function of the data and the CRC before it."""
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
    """Return the names of the checksums that can be computed here, the strongest first."""
    return ("XXHASH128", *(name for name in _CRCS if name in _crcs()))


def upload_checksums() -> Sequence[str]:
    """Return the names of the checksums that may be sent with an upload, the best first."""
    return ("XXHASH128", *(name for name in COMBINABLE if name in _crcs()))


def checksum(name: str, data: memoryview, digest: str) -> bytes:
    """Return the checksum `name` of `data`.

    Args:
        name: one of `supported_checksums`.
        data: the bytes.
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
        ValueError: if it is not supported here.
    """

    def __init__(self, name: str) -> None:
        if name not in _crcs():
            raise ValueError(f"unsupported checksum {name!r}")
        self._function = _crcs()[name]
        self._digits = _CRCS[name][0] // 4
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = self._function(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


def header_name(name: str) -> str:
    """Return the name of the HTTP header for the checksum `name`."""
    return f"x-amz-checksum-{name.lower()}"


def element_name(name: str) -> str:
    """Return the name of the XML element for the checksum `name`."""
    return f"Checksum{name}"


def encode_checksum(value: bytes) -> str:
    """Return a checksum in base64, as headers and XML contain it."""
    return base64.b64encode(value).decode()


def decode_checksum(name: str, text: str) -> bytes | None:
    """Return the checksum `name` of a header in base64, or None if `text` is not one."""
    size = 16 if name == "XXHASH128" else _CRCS[name][0] // 8
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return value if len(value) == size else None


def combine_crcs(name: str, parts: Sequence[tuple[bytes, int]]) -> bytes:
    """Return the CRC of a whole from the CRCs of its parts.

    Appending n bytes multiplies a CRC by x^(8n) modulo the polynomial, as in zlib's
    ``crc32_combine``.

    Args:
        name: ``CRC32``, ``CRC32C`` or ``CRC64NVME``.
        parts: CRC and length in bytes of each part, in order.
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
    """Return x^exponent modulo `polynomial`, by repeated squaring."""
    result, square = 1 << (width - 1), 1 << (width - 2)  # 1 and x
    while exponent:
        if exponent & 1:
            result = _multiply(square, result, width, polynomial)
        square = _multiply(square, square, width, polynomial)
        exponent >>= 1
    return result
