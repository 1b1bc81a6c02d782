"""obstore: objects as streams into files, files by put_async with its own multipart."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

_AT_A_TIME = 32
_CHUNK = 8 << 20


async def main() -> None:
    """Do the job."""
    with open(sys.argv[1]) as file:
        job: dict[str, Any] = json.load(file)
    store = S3Store(
        job["bucket"],
        prefix=job["prefix"],
        endpoint=job["endpoint"],
        client_options={"allow_http": True},
    )
    get = job["folder"].startswith(job["scratch"])
    gate = asyncio.Semaphore(_AT_A_TIME if len(job["files"]) > 100 else 4)

    async def move(path: str) -> None:
        local = os.path.join(job["folder"], path)
        async with gate:
            if not get:
                await obstore.put_async(
                    store,
                    path,
                    Path(local),
                    chunk_size=_CHUNK,
                    max_concurrency=job["connections"],
                )
                return
            answer = await obstore.get_async(store, path)
            with open(local, "wb") as file:
                async for piece in answer.stream(min_chunk_size=_CHUNK):
                    file.write(piece)

    await asyncio.gather(*(move(file["path"]) for file in job["files"]))


if __name__ == "__main__":
    asyncio.run(main())
