"""boto3's transfer manager with its defaults: 4 files at a time, or 16 if there are many."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config


def main() -> None:
    """Transfer every file of the run."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    client = boto3.client("s3", config=Config(max_pool_connections=64))

    def transfer(path: str) -> None:
        local = os.path.join(spec["folder"], path)
        if spec["direction"] == "get":
            client.download_file(spec["bucket"], spec["prefix"] + path, local)
        else:
            client.upload_file(local, spec["bucket"], spec["prefix"] + path)

    with ThreadPoolExecutor(spec["connections"] if len(spec["files"]) > 100 else 4) as pool:
        list(pool.map(transfer, [file["path"] for file in spec["files"]]))


if __name__ == "__main__":
    main()
