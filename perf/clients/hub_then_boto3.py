"""What there is today from the Hub to S3: huggingface_hub to disk, then boto3 from there."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

with open(sys.argv[1]) as file:
    job: dict[str, Any] = json.load(file)

from huggingface_hub import snapshot_download

folder = os.path.join(job["scratch"], "between")
hub = job["hub"]
snapshot_download(
    hub["repo_id"], revision=hub["revision"], local_dir=folder, endpoint=hub["endpoint"]
)
client = boto3.client("s3", config=Config(max_pool_connections=64))


def send(path: str) -> None:
    """Upload one file."""
    client.upload_file(os.path.join(folder, path), job["bucket"], job["prefix"] + path)


with ThreadPoolExecutor(4) as pool:
    list(pool.map(send, [file["path"] for file in job["files"]]))
