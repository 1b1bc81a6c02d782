"""hf_transfer on the CDN's URLs: eight files at once, as huggingface_hub 0.36 used it.

HFT_MAX_FILES and HFT_CHUNK_MIB set what huggingface_hub fixed at 100 and 10 MB.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hf_transfer

_WORKERS = 8


def main() -> None:
    """Download every file of the job."""
    with open(sys.argv[1]) as file:
        job: dict[str, Any] = json.load(file)
    max_files = int(os.environ["HFT_MAX_FILES"])
    chunk = int(os.environ["HFT_CHUNK_MIB"]) << 20

    def fetch(file: dict[str, Any]) -> None:
        path = os.path.join(job["destination"], file["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        hf_transfer.download(
            url=file["url"],
            filename=path,
            max_files=max_files,
            chunk_size=chunk,
            parallel_failures=3,
            max_retries=5,
        )

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(fetch, job["files"]))


if __name__ == "__main__":
    main()
