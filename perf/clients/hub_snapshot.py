"""huggingface_hub.snapshot_download into a directory, with its defaults."""

from __future__ import annotations

import json
import sys

with open(sys.argv[1]) as file:
    spec = json.load(file)

from huggingface_hub import snapshot_download

snapshot_download(spec["repo_id"], local_dir=spec["destination"], endpoint=spec["endpoint"])
