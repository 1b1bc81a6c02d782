"""Metaflow's own S3 client: get_many, whose files are moved where they belong, and put_files."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

with open(sys.argv[1]) as file:
    job: dict[str, Any] = json.load(file)
os.environ["METAFLOW_S3_ENDPOINT_URL"] = job["endpoint"] or ""
os.environ.setdefault("USERNAME", "perf")

from metaflow import S3

paths = [file["path"] for file in job["files"]]
with S3(s3root=f"s3://{job['bucket']}/{job['prefix']}", tmproot=job["scratch"]) as s3:
    if job["folder"].startswith(job["scratch"]):
        for found in s3.get_many(paths):
            os.replace(found.path, os.path.join(job["folder"], found.key))
    else:
        s3.put_files([(path, os.path.join(job["folder"], path)) for path in paths])
