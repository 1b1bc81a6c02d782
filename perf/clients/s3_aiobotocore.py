"""aiobotocore used plainly: bodies as streams into files; parts of 8 MiB out of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

_PART = 8 << 20


async def put_parts(client: Any, file: Any, size: int, target: dict[str, str], n: int) -> None:
    """Upload one file in parts, `n` at a time."""
    upload = (await client.create_multipart_upload(**target))["UploadId"]
    gate = asyncio.Semaphore(n)

    async def send(number: int) -> dict[str, Any]:
        async with gate:
            body = os.pread(file.fileno(), _PART, (number - 1) * _PART)
            answer = await client.upload_part(
                UploadId=upload, PartNumber=number, Body=body, **target
            )
            return {"PartNumber": number, "ETag": answer["ETag"]}

    parts = await asyncio.gather(*(send(i + 1) for i in range(-(-size // _PART))))
    await client.complete_multipart_upload(
        UploadId=upload, MultipartUpload={"Parts": parts}, **target
    )


async def main() -> None:
    """Do the job."""
    with open(sys.argv[1]) as file:
        job: dict[str, Any] = json.load(file)
    get = job["folder"].startswith(job["scratch"])
    gate = asyncio.Semaphore(32 if len(job["files"]) > 100 else 4)
    config = AioConfig(max_pool_connections=64)
    async with get_session().create_client("s3", config=config) as client:

        async def move(path: str, size: int) -> None:
            local = os.path.join(job["folder"], path)
            target = {"Bucket": job["bucket"], "Key": job["prefix"] + path}
            async with gate:
                if get:
                    answer = await client.get_object(**target)
                    with open(local, "wb") as file:
                        async for piece in answer["Body"].iter_chunks(1 << 20):
                            file.write(piece)
                    return
                with open(local, "rb") as file:
                    if size <= _PART:
                        await client.put_object(Body=file.read(), **target)
                    else:
                        await put_parts(client, file, size, target, job["connections"])

        await asyncio.gather(*(move(file["path"], file["size"]) for file in job["files"]))


if __name__ == "__main__":
    asyncio.run(main())
