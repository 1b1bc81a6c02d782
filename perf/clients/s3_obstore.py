"""obstore: one GET per object, streamed to a file; uploads by ``put_async`` in 8 MiB parts."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

_SMALL_FILES = 32
"""Files at a time where there are many."""
_CHUNK = 8 << 20


async def main() -> None:
    """Transfer every file of the run."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    store = S3Store(
        spec["bucket"],
        prefix=spec["prefix"],
        endpoint=spec["endpoint"],
        client_options={"allow_http": True},
    )
    semaphore = asyncio.Semaphore(_SMALL_FILES if len(spec["files"]) > 100 else 4)

    async def transfer(path: str) -> None:
        local = os.path.join(spec["folder"], path)
        async with semaphore:
            if spec["direction"] == "put":
                await obstore.put_async(
                    store,
                    path,
                    Path(local),
                    chunk_size=_CHUNK,
                    max_concurrency=spec["connections"],
                )
                return
            response = await obstore.get_async(store, path)
            with open(local, "wb") as file:
                async for piece in response.stream(min_chunk_size=_CHUNK):
                    file.write(piece)

    await asyncio.gather(*(transfer(file["path"]) for file in spec["files"]))


if __name__ == "__main__":
    asyncio.run(main())
