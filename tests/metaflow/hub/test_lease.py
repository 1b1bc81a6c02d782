"""Leases in a datastore."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from hftransfer._io.process_identity import own_token
from metaflow_extensions.hftransfer.plugins.hub.lease import store_lease
from support.metaflow_stores import Datastore

pytestmark = [pytest.mark.metaflow, pytest.mark.timeout(180)]


def test_without_a_bucket_there_is_no_lease_and_no_wait(datastore: Datastore) -> None:
    """The block runs without a lease, and its own request fails with the missing bucket."""
    if datastore.kind != "s3":
        pytest.skip("a local datastore has no leases")
    from botocore.exceptions import ClientError

    missing = replace(datastore, root=datastore.root.replace("s3://", "s3://gone-", 1)).backend

    with pytest.raises(ClientError, match="NoSuchBucket"):
        missing.write_if("lease", b"{}", None)
    with store_lease(
        missing, "lease", "task", is_usable=lambda record: False, on_wait=lambda: None
    ) as lease:
        assert not lease.held


def test_a_dead_holder_of_this_machine_is_recognised_at_once(datastore: Datastore) -> None:
    """Its lease is taken over without a wait; that of a living process is waited for."""
    if datastore.kind != "s3":
        pytest.skip("a local datastore has no leases")
    program = "from hftransfer._io.process_identity import own_token; print(own_token())"
    dead = subprocess.check_output([sys.executable, "-c", program], text=True).strip()
    waits: list[str] = []

    def hold(holder: str) -> None:
        datastore.write("lease", json.dumps({"holder": holder, "owner": "x", "beat": 1}).encode())

        def on_wait() -> None:
            waits.append(holder)
            datastore.backend.delete("lease")

        with store_lease(
            datastore.backend, "lease", "task", is_usable=lambda record: False, on_wait=on_wait
        ) as lease:
            assert lease.held
            assert lease.waited is (holder in waits)

    hold(dead)
    assert waits == []
    alive = own_token()
    hold(alive)
    assert waits == [alive]
