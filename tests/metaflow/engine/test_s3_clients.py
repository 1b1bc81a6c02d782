"""Which S3 client serves which parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("boto3")

from metaflow.plugins.datatools.s3.s3 import S3Client

from metaflow_extensions.hftransfer.plugins.engine import flow_env, s3_clients

pytestmark = pytest.mark.metaflow


@pytest.fixture(autouse=True)
def empty_client_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the clients of other tests, and afterwards those of this test."""
    monkeypatch.setattr(s3_clients, "_clients", {})


def test_the_client_of_the_flows_datastore_also_serves_its_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only where no parameters are given; an artifact store with parameters has its own client."""
    monkeypatch.setenv(flow_env._VARIABLE, "")
    own = S3Client()
    storage = SimpleNamespace(s3_client=own)
    flow_env.remember_datastore(
        SimpleNamespace(TYPE="s3", datastore_root="s3://b/p", _storage_impl=storage)
    )

    assert flow_env.remembered_datastore() == ("s3", "s3://b/p")
    assert s3_clients.shared_client(None, None, None) is own
    assert s3_clients.shared_client(None, None, {"verify": False}) is not own


@pytest.mark.parametrize("given", [{"s3_role_arn": "arn"}, {"s3_client_params": {"verify": False}}])
def test_a_client_with_parameters_is_not_shared(given: dict[str, Any]) -> None:
    """The datastore of another extension may have made it."""
    special = S3Client(**given)
    s3_clients.share_client(SimpleNamespace(s3_client=special))

    assert s3_clients.shared_client(None, None, None) is not special
