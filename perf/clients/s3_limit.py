"""The limit of S3 transfers: threads with blocking sockets that send presigned requests.

Downloads are received into one buffer per thread and dropped (see `limit.py`). Uploads are sent
from the page cache with sendfile(2). With ``--hash`` each part is also read once before, through
a 1 MiB window, and hashed by XXH3-128 and CRC32: the minimum of an upload with checksums.
"""

from __future__ import annotations

import json
import os
import queue
import runpy
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xxhash

try:
    from isal.isal_zlib import crc32
except ImportError:  # isal has no wheel for this machine
    from zlib import crc32

_PART = 8 << 20
_WINDOW = 1 << 20


def digest(file: int, start: int, size: int, window: memoryview) -> None:
    """Hash `size` bytes of a file from `start`, as an upload with a checksum must."""
    xxh3, crc = xxhash.xxh3_128(), 0
    for offset in range(0, size, len(window)):
        piece = window[: min(len(window), size - offset)]
        os.preadv(file, [piece], start + offset)
        xxh3.update(piece)
        crc = crc32(piece, crc)


def put(connection: socket.socket, url: str, file: int, start: int, size: int) -> None:
    """Send `size` bytes of a file from `start`, and read the response."""
    parts = urlsplit(url)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
    sent = 0
    while sent < size:
        sent += os.sendfile(connection.fileno(), file, start + sent, size - sent)
    response = b""
    while b"\r\n\r\n" not in response:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed before the end of the headers")
        response += piece
    if not response.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(response[:200].decode(errors="replace"))


def main() -> None:
    """Transfer every file of the run over the given number of connections."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    if spec["direction"] == "get":
        runpy.run_path(str(Path(__file__).with_name("limit.py")), run_name="__main__")
        return
    work: queue.SimpleQueue[tuple[str, str, int, int]] = queue.SimpleQueue()
    for each in spec["files"]:
        for index, url in enumerate(each["urls"]):
            start = index * _PART
            work.put((url, each["path"], start, min(_PART, each["size"] - start)))

    hashes = "--hash" in sys.argv

    def run() -> None:
        connection: socket.socket | None = None
        window = memoryview(bytearray(_WINDOW if hashes else 0))
        while True:
            try:
                url, path, start, size = work.get_nowait()
            except queue.Empty:
                return
            if connection is None:
                parts = urlsplit(url)
                # Blocking, so that sendfile returns only when the socket has taken the bytes.
                connection = socket.create_connection((parts.hostname, parts.port or 80))
                # Without TCP_NODELAY a small body waits until the server acknowledges the head.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with open(os.path.join(spec["folder"], path), "rb") as file:
                if hashes:
                    digest(file.fileno(), start, size, window)
                put(connection, url, file.fileno(), start, size)

    with ThreadPoolExecutor(spec["connections"]) as pool:
        for thread in [pool.submit(run) for _ in range(spec["connections"])]:
            thread.result()


if __name__ == "__main__":
    main()
