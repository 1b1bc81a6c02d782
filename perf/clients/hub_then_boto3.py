"""From the Hub to S3 without hftransfer: huggingface_hub to the disk, then boto3 to S3."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

with open(sys.argv[1]) as file:
    spec: dict[str, Any] = json.load(file)

from huggingface_hub import snapshot_download

folder = os.path.join(spec["workdir"], "between")
hub = spec["hub"]
snapshot_download(
    hub["repo_id"], revision=hub["revision"], local_dir=folder, endpoint=hub["endpoint"]
)
client = boto3.client("s3", config=Config(max_pool_connections=64))


def upload(path: str) -> None:
    """Upload one file."""
    client.upload_file(os.path.join(folder, path), spec["bucket"], spec["prefix"] + path)


with ThreadPoolExecutor(4) as pool:
    list(pool.map(upload, [file["path"] for file in spec["files"]]))
