"""Clients of a `ScriptedS3`, and what they move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hftransfer import AsyncClient
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.testing.s3 import S3Script, ScriptedS3

__all__ = ("LARGE", "MIB", "OPTIONS", "SMALL", "client_of", "requests_of", "running")

MIB = 1 << 20
OPTIONS = TransferOptions(
    chunk_size=5 * MIB,
    connections=4,
    retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0),
)
SMALL = b"content"
LARGE = bytes(range(251)) * (11 * MIB // 251)
"""Three chunks."""


@contextmanager
def running(**script: Any) -> Iterator[ScriptedS3]:
    """Run a store with this `S3Script`."""
    with ScriptedS3(S3Script(**script)) as store:
        yield store


def client_of(store: ScriptedS3, *, verify: bool = True, **options: Any) -> AsyncClient:
    """Return a client of `store`; `options` are those of `S3Options`."""
    s3 = S3Options(
        endpoint_url=store.endpoint,
        access_key_id=store.access_key,
        secret_access_key=store.secret_key,
        **options,
    )
    return AsyncClient(replace(OPTIONS, verify=verify, s3=s3))


def requests_of(store: ScriptedS3, method: str, **query: str) -> int:
    """Return the number of requests with this method and these query parameters."""
    return sum(
        request.method == method and query.items() <= dict(request.query).items()
        for request in store.requests
    )
