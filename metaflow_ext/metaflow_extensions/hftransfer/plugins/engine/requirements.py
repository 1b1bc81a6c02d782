"""Which packages the engine needs where a task runs, and which are missing."""

from __future__ import annotations

import functools
from importlib.util import find_spec

_ALWAYS = ("aiohappyeyeballs", "aiohttp", "anyio", "huggingface_hub", "xxhash")
_FOR_S3 = ("aiobotocore",)


@functools.cache
def missing_packages(*, s3: bool) -> str:
    """Return the names of the missing packages, with commas; empty if all are here."""
    wanted = ("hftransfer", *_ALWAYS, *(_FOR_S3 if s3 else ()))
    return ", ".join(name for name in wanted if find_spec(name) is None)
