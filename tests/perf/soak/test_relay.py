"""`perf.soak.relay`: what a client sees of each fault."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from perf.soak import relay as relay_module
from perf.soak.relay import Conditions, Relay, RelayThread

CONTENT = random.Random(5).randbytes(6 << 20)


@contextmanager
def _sending_server() -> Iterator[int]:
    """A server that sends `CONTENT` to every client; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=_send, args=[client], daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _send(client: socket.socket) -> None:
    with client:
        try:
            client.sendall(CONTENT)
        except OSError:
            return


@pytest.fixture
def conditions() -> Conditions:
    return Conditions()


@pytest.fixture
def relay(conditions: Conditions) -> Iterator[Relay]:
    with _sending_server() as port, RelayThread() as thread:
        relay = Relay(thread, "127.0.0.1", port, conditions, random.Random(1))
        yield relay
        relay.close()


def _receive(port: int) -> bytes:
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port)) as client:
        try:
            while data := client.recv(1 << 20):
                received += data
        except ConnectionResetError:
            pass
    return bytes(received)


def test_without_faults_everything_arrives(relay: Relay) -> None:
    """Byte for byte."""
    assert _receive(relay.port) == CONTENT
    assert relay.counts == {"connection": 1}


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_a_cut_ends_the_connection(
    fault: str, relay: Relay, conditions: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some of the bytes, which are the right ones."""
    monkeypatch.setattr(relay_module, "_FAULTS", (fault,))
    conditions.fault_rate = 1.0

    received = _receive(relay.port)

    assert len(received) < len(CONTENT)
    assert CONTENT.startswith(received)
    assert relay.counts[fault] == 1


def test_damage_changes_one_byte(
    relay: Relay, conditions: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else."""
    monkeypatch.setattr(relay_module, "_FAULTS", ("damage",))
    conditions.fault_rate = 1.0

    received = _receive(relay.port)

    assert len(received) == len(CONTENT)
    different = [index for index in range(len(CONTENT)) if received[index] != CONTENT[index]]
    assert len(different) == relay.counts["damage"] == 1


def test_an_outage_refuses_connections_until_it_ends(relay: Relay) -> None:
    """The port stays the same."""
    port = relay.port
    relay.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    relay.accept()

    assert _receive(port) == CONTENT
