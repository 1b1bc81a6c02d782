"""Metaflow's own S3 client: ``put_files``, or ``get_many`` and a rename to the destination."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

with open(sys.argv[1]) as file:
    spec: dict[str, Any] = json.load(file)
os.environ["METAFLOW_S3_ENDPOINT_URL"] = spec["endpoint"] or ""
os.environ.setdefault("USERNAME", "perf")

from metaflow import S3

paths = [file["path"] for file in spec["files"]]
with S3(s3root=f"s3://{spec['bucket']}/{spec['prefix']}", tmproot=spec["workdir"]) as s3:
    if spec["direction"] == "get":
        for found in s3.get_many(paths):
            os.replace(found.path, os.path.join(spec["folder"], found.key))
    else:
        s3.put_files([(path, os.path.join(spec["folder"], path)) for path in paths])
