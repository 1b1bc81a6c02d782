"""Imports a package and finds a pinned repository in its cache: the fixed cost of a process.

Usage: ``cache_hit.py SPEC MODULE``, with hftransfer or huggingface_hub, whose
``snapshot_download`` has the same parameters.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from itertools import pairwise
from typing import Any


def main() -> None:
    """Measure the import and two calls; in the second one, everything is already imported."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    times = [time.perf_counter()]
    module = import_module(sys.argv[2])
    times.append(time.perf_counter())
    for _ in range(2):
        module.snapshot_download(
            spec["repo_id"], revision=spec["revision"], endpoint=spec["endpoint"]
        )
        times.append(time.perf_counter())
    names = ("import_ms", "first_hit_ms", "next_hit_ms")
    durations = [round(1000 * (stop - start), 2) for start, stop in pairwise(times)]
    with open(spec["metrics_path"], "w") as file:
        json.dump(dict(zip(names, durations, strict=True)), file)


if __name__ == "__main__":
    main()
