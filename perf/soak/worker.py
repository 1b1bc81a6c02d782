"""A process that transfers whatever its standard input asks for, with one client.

Each line is a JSON object with ``source`` and ``destination``; the response is one line with
``error`` (None if the transfer succeeded) and what the process then holds: ``rss_kb``,
``descriptors`` and ``threads``. The process ends with its standard input.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from typing import Any

import hftransfer

__all__ = ("main",)

_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    """Respond to every line of standard input."""
    with hftransfer.Client() as client:
        for line in sys.stdin:
            request = json.loads(line)
            error = None
            try:
                client.copy(request["source"], [request["destination"]])
            except hftransfer.TransferError as failure:
                error = f"{type(failure).__name__}: {failure}"
            print(json.dumps({"error": error, **_resources()}), flush=True)


def _resources() -> dict[str, Any]:
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "rss_kb": pages * _PAGE_KB,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


if __name__ == "__main__":
    main()
