"""The download lock: which entry of another task it names, and what it records."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from metaflow_extensions.hftransfer.plugins.engine.cache_key import entry_metadata
from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
from metaflow_extensions.hftransfer.plugins.hub.download_lock import DownloadLock
from metaflow_extensions.hftransfer.plugins.hub.lease import StoreLease

pytestmark = pytest.mark.metaflow

STEP = "Flow/1/start"
REQUEST = RepoRequest("acme/model", allow_patterns="*.json")
FORCED = RepoRequest("acme/model", allow_patterns="*.json", force_download=True)


def reference(request: RepoRequest) -> dict[str, Any]:
    """Return a reference to an entry that was made for `request`."""
    return {"key": "k", "metadata": entry_metadata(request, "c" * 40, with_arguments=False)}


@pytest.mark.parametrize(
    ("step", "recorded", "request_", "is_found"),
    [
        (STEP, REQUEST, REQUEST, True),
        ("Flow/2/start", REQUEST, REQUEST, False),
        (STEP, RepoRequest("acme/model"), REQUEST, False),
        (STEP, REQUEST, FORCED, False),
    ],
    ids=["same", "another run", "other files", "forced"],
)
def test_a_sibling_entry_is_of_the_same_step_and_files(
    step: str, recorded: RepoRequest, request_: RepoRequest, is_found: bool
) -> None:
    """A forced download never uses the entry of another task."""
    lease = StoreLease(record={"task": step, "reference": reference(recorded)})

    found = DownloadLock([StoreLease(), lease], request_, STEP).sibling_entry()

    assert found == (reference(recorded) if is_found else None)


@pytest.mark.parametrize(("request_", "is_recorded"), [(REQUEST, True), (FORCED, False)])
def test_only_an_ordinary_download_is_recorded(request_: RepoRequest, is_recorded: bool) -> None:
    """No other task may use a forced download in place of its own."""
    leases = [StoreLease(), StoreLease(waited=True)]
    lock = DownloadLock(leases, request_, STEP)

    lock.record(reference(request_))

    expected = {"task": STEP, "reference": reference(request_)} if is_recorded else None
    assert [lease._new_record for lease in leases] == [expected] * 2
    assert lock.waited
