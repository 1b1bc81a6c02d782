"""boto3's transfer manager with its defaults, several files at a time."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config


def main() -> None:
    """Do the job."""
    with open(sys.argv[1]) as file:
        job: dict[str, Any] = json.load(file)
    client = boto3.client("s3", config=Config(max_pool_connections=64))
    get = job["folder"].startswith(job["scratch"])

    def move(path: str) -> None:
        local = os.path.join(job["folder"], path)
        if get:
            client.download_file(job["bucket"], job["prefix"] + path, local)
        else:
            client.upload_file(local, job["bucket"], job["prefix"] + path)

    with ThreadPoolExecutor(job["connections"] if len(job["files"]) > 100 else 4) as pool:
        list(pool.map(move, [file["path"] for file in job["files"]]))


if __name__ == "__main__":
    main()
