"""Leases in a datastore."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

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
        missing, "lease", "task", is_satisfied_by=lambda record, waited: False, on_wait=lambda: None
    ) as lease:
        assert not lease.held
