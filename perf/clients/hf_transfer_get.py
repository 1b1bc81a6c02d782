"""hf_transfer with the CDN's URLs: 8 files at a time, as huggingface_hub 0.36 used it.

``HFT_MAX_FILES`` is the number of connections for a file and ``HFT_CHUNK_MIB`` the size of a
range; huggingface_hub had fixed them at 100 and 10 MB.
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
    """Download every file of the run."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    connections = int(os.environ["HFT_MAX_FILES"])
    chunk = int(os.environ["HFT_CHUNK_MIB"]) << 20

    def download(file: dict[str, Any]) -> None:
        path = os.path.join(spec["destination"], file["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        hf_transfer.download(
            url=file["url"],
            filename=path,
            max_files=connections,
            chunk_size=chunk,
            parallel_failures=3,
            max_retries=5,
        )

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(download, spec["files"]))


if __name__ == "__main__":
    main()
