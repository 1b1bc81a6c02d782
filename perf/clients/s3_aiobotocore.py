"""aiobotocore with plain calls: one GET per object, streamed to a file; uploads in 8 MiB parts."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

_PART = 8 << 20


async def upload_parts(
    client: Any, file: Any, size: int, target: dict[str, str], concurrency: int
) -> None:
    """Upload one file in parts, `concurrency` at a time."""
    upload = (await client.create_multipart_upload(**target))["UploadId"]
    semaphore = asyncio.Semaphore(concurrency)

    async def upload_part(number: int) -> dict[str, Any]:
        async with semaphore:
            body = os.pread(file.fileno(), _PART, (number - 1) * _PART)
            response = await client.upload_part(
                UploadId=upload, PartNumber=number, Body=body, **target
            )
            return {"PartNumber": number, "ETag": response["ETag"]}

    parts = await asyncio.gather(*(upload_part(i + 1) for i in range(-(-size // _PART))))
    await client.complete_multipart_upload(
        UploadId=upload, MultipartUpload={"Parts": parts}, **target
    )


async def main() -> None:
    """Transfer every file of the run."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    semaphore = asyncio.Semaphore(32 if len(spec["files"]) > 100 else 4)
    config = AioConfig(max_pool_connections=64)
    async with get_session().create_client("s3", config=config) as client:

        async def transfer(path: str, size: int) -> None:
            local = os.path.join(spec["folder"], path)
            target = {"Bucket": spec["bucket"], "Key": spec["prefix"] + path}
            async with semaphore:
                if spec["direction"] == "get":
                    response = await client.get_object(**target)
                    with open(local, "wb") as file:
                        async for piece in response["Body"].iter_chunks(1 << 20):
                            file.write(piece)
                    return
                with open(local, "rb") as file:
                    if size <= _PART:
                        await client.put_object(Body=file.read(), **target)
                    else:
                        await upload_parts(client, file, size, target, spec["connections"])

        await asyncio.gather(*(transfer(file["path"], file["size"]) for file in spec["files"]))


if __name__ == "__main__":
    asyncio.run(main())
