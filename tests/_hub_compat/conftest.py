"""The repository that the download tests use."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from hftransfer.testing import HubServer, Repo
from support.downloads import FILES, REPO


@pytest.fixture
def repo(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """`REPO` on a Hub server that is the default endpoint during the test."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    return hub.create_repo(REPO, files=FILES)
