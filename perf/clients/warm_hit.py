"""What a process pays before and for finding a pinned repository in its cache.

Takes the module as its second argument: hftransfer or huggingface_hub, which are called alike.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from itertools import pairwise
from typing import Any


def main() -> None:
    """Time the import and two calls, the second with everything loaded."""
    with open(sys.argv[1]) as file:
        job: dict[str, Any] = json.load(file)
    marks = [time.perf_counter()]
    module = import_module(sys.argv[2])
    marks.append(time.perf_counter())
    for _ in range(2):
        module.snapshot_download(job["repo_id"], revision=job["revision"], endpoint=job["endpoint"])
        marks.append(time.perf_counter())
    names = ("import_ms", "first_hit_ms", "next_hit_ms")
    spans = [round(1000 * (stop - start), 2) for start, stop in pairwise(marks)]
    with open(job["facts"], "w") as file:
        json.dump(dict(zip(names, spans, strict=True)), file)


if __name__ == "__main__":
    main()
