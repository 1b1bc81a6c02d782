"""huggingface_hub.snapshot_download into a folder, with its own defaults."""

from __future__ import annotations

import json
import sys

with open(sys.argv[1]) as file:
    job = json.load(file)

from huggingface_hub import snapshot_download

snapshot_download(job["repo_id"], local_dir=job["destination"], endpoint=job["endpoint"])
