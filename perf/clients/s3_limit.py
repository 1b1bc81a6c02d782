"""The limit: sockets in threads on presigned URLs, neither hashing nor writing.

Reads arrive in one buffer per thread; what is sent goes from the page cache by sendfile. With
``--hash`` each part is read before, through a window, and hashed by XXH3-128 and CRC32: what
an upload whose bytes are known needs of the machine.
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
except ImportError:  # has none for this machine
    from zlib import crc32

_PART = 8 << 20
_WINDOW = 1 << 20


def digest(file: int, start: int, size: int, window: memoryview) -> None:
    """Hash one stretch of a file, as an upload with a checksum has to."""
    xxh3, crc = xxhash.xxh3_128(), 0
    for offset in range(0, size, len(window)):
        piece = window[: min(len(window), size - offset)]
        os.preadv(file, [piece], start + offset)
        xxh3.update(piece)
        crc = crc32(piece, crc)


def put(connection: socket.socket, url: str, file: int, start: int, size: int) -> None:
    """Send one stretch of a file and read the answer."""
    parts = urlsplit(url)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
    sent = 0
    while sent < size:
        sent += os.sendfile(connection.fileno(), file, start + sent, size - sent)
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed before the headers")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(answer[:200].decode(errors="replace"))


def main() -> None:
    """Do the job, on as many connections as it says."""
    with open(sys.argv[1]) as file:
        job: dict[str, Any] = json.load(file)
    if "url" in job["files"][0]:
        runpy.run_path(str(Path(__file__).with_name("limit.py")), run_name="__main__")
        return
    work: queue.SimpleQueue[tuple[str, str, int, int]] = queue.SimpleQueue()
    for each in job["files"]:
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
                # Blocking, as sendfile wants it.
                connection = socket.create_connection((parts.hostname, parts.port or 80))
                # Else a small body waits until the store has acknowledged the head.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with open(os.path.join(job["folder"], path), "rb") as file:
                if hashes:
                    digest(file.fileno(), start, size, window)
                put(connection, url, file.fileno(), start, size)

    with ThreadPoolExecutor(job["connections"]) as pool:
        for thread in [pool.submit(run) for _ in range(job["connections"])]:
            thread.result()


if __name__ == "__main__":
    main()
