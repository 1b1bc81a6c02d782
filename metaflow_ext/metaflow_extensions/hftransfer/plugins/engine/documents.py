"""What a lease needs from a datastore: small documents with conditional writes."""

from __future__ import annotations

from typing import Protocol


class Documents(Protocol):
    """A store of small documents with conditional writes, such as `HftransferS3Storage`."""

    def read_with_etag(self, key: str) -> tuple[bytes, str] | None: ...

    def write_if(self, key: str, data: bytes, etag: str | None) -> str | None: ...

    def delete(self, key: str) -> bool: ...
