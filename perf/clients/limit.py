"""The limit of downloads: threads with blocking sockets that receive all bytes and drop them.

It does not hash, write or retry, so the time that a client needs above this is its own. With
``--store`` every range is also hashed by XXH3-128 and written with O_DIRECT: the system calls of
a verified download and nothing else.
"""

from __future__ import annotations

import json
import mmap
import os
import queue
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin, urlsplit

import xxhash

_RANGE = 8 << 20
_BUFFER = 1 << 20


class Receiver:
    """The connections and the buffer of one thread.

    Args:
        ca: file with the certificate authorities to trust, or None.
        chunk: receives the bodies; None to drop them.
    """

    def __init__(self, ca: str | None, chunk: memoryview | None = None) -> None:
        self.received = 0
        """Number of bytes of the last body."""
        self._chunk = chunk
        self._context = ssl.create_default_context(cafile=ca) if ca else None
        self._buffer = bytearray(_BUFFER)
        self._open: dict[tuple[str, int], socket.socket] = {}

    def fetch(self, url: str, part: tuple[int, int] | None) -> None:
        """Send a GET request, follow redirects and receive the body.

        Args:
            url: of the first request.
            part: half-open range of bytes, or None for the whole body.
        """
        while True:
            location = self._exchange(url, part)
            if location is None:
                return
            url = urljoin(url, location)

    def _exchange(self, url: str, part: tuple[int, int] | None) -> str | None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        host = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        if host not in self._open:
            self._open[host] = self._connect(host, parts.scheme)
        connection = self._open[host]
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        if part is not None:
            request += f"Range: bytes={part[0]}-{part[1] - 1}\r\n"
        connection.sendall(f"{request}\r\n".encode())
        return self._receive(connection, url)

    def _receive(self, connection: socket.socket, url: str) -> str | None:
        buffer = self._buffer
        got = 0
        while (end := buffer.find(b"\r\n\r\n", 0, got)) < 0:
            count = connection.recv_into(memoryview(buffer)[got:])
            if not count:
                raise ConnectionError(f"{url}: closed before the end of the headers")
            got += count
        status, *lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        code = int(status.split()[1])
        self.received = length = int(headers["content-length"])
        at = got - end - 4
        chunk = self._chunk if code in (200, 206) else None
        if chunk is not None:
            chunk[:at] = buffer[end + 4 : got]
        while at < length:
            if chunk is not None:
                count = connection.recv_into(chunk[at:length])
            else:
                count = connection.recv_into(buffer, min(length - at, _BUFFER))
            if not count:
                raise ConnectionError(f"{url}: closed before the end of the body")
            at += count
        if code in (301, 302, 307, 308):
            return headers["location"]
        if code not in (200, 206):
            raise ConnectionError(f"{url}: {status}")
        return None

    def _connect(self, host: tuple[str, int], scheme: str) -> socket.socket:
        connection = socket.create_connection(host, timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if scheme != "https":
            return connection
        assert self._context is not None
        return self._context.wrap_socket(connection, server_hostname=host[0])


def store(path: str, start: int, data: memoryview) -> None:
    """Hash a range of a file and write it: whole pages with O_DIRECT, the rest without."""
    xxhash.xxh3_128_digest(data)
    blocks = len(data) - len(data) % mmap.PAGESIZE
    for flags, first, last in ((os.O_DIRECT, 0, blocks), (0, blocks, len(data))):
        if first < last:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o666)
            while first < last:
                first += os.pwrite(fd, data[first:last], start + first)
            os.close(fd)


def main() -> None:
    """Receive every file of the run, in ranges of 8 MiB, over the given number of connections."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    folder = spec.get("destination") or spec["folder"]
    is_stored = "--store" in sys.argv[2:]
    work: queue.SimpleQueue[tuple[str, str, tuple[int, int] | None]] = queue.SimpleQueue()
    for each in spec["files"]:
        size, path = each["size"], os.path.join(folder, each["path"])
        if is_stored:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        if size <= _RANGE:
            work.put((path, each["url"], None))
            continue
        for start in range(0, size, _RANGE):
            work.put((path, each["url"], (start, min(start + _RANGE, size))))

    def run() -> None:
        chunk = memoryview(mmap.mmap(-1, _RANGE)) if is_stored else None
        receiver = Receiver(spec["ca"], chunk)
        while True:
            try:
                path, url, part = work.get_nowait()
            except queue.Empty:
                return
            receiver.fetch(url, part)
            if chunk is not None:
                store(path, part[0] if part else 0, chunk[: receiver.received])

    with ThreadPoolExecutor(spec["connections"]) as pool:
        for thread in [pool.submit(run) for _ in range(spec["connections"])]:
            thread.result()


if __name__ == "__main__":
    main()
