"""The download lock: which entry of another task it names, and what it records."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from metaflow_extensions.hftransfer.plugins.engine.cache_key import entry_metadata
from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
from metaflow_extensions.hftransfer.plugins.hub.download_lock import DownloadLock
from metaflow_extensions.hftransfer.plugins.hub.single_flight import Flight

pytestmark = pytest.mark.metaflow

REQUEST = RepoRequest("acme/model", allow_patterns="*.json")
FORCED = RepoRequest("acme/model", allow_patterns="*.json", force_download=True)


def reference(request: RepoRequest) -> dict[str, Any]:
    """Return a reference to an entry that was made for `request`."""
    return {"key": "k", "metadata": entry_metadata(request, "c" * 40, with_arguments=False)}


@pytest.mark.parametrize(
    ("recorded", "request_", "is_found"),
    [
        (REQUEST, REQUEST, True),
        (RepoRequest("acme/model"), REQUEST, False),
        (REQUEST, FORCED, False),
    ],
    ids=["same", "other files", "forced"],
)
def test_the_entry_of_another_task_has_the_same_files(
    recorded: RepoRequest, request_: RepoRequest, is_found: bool
) -> None:
    """A forced download never uses the entry of another task."""
    flight = Flight("name", record={"reference": reference(recorded)})

    found = DownloadLock(flight, request_).stored

    assert found == (reference(recorded) if is_found else None)


@pytest.mark.parametrize(("request_", "is_recorded"), [(REQUEST, True), (FORCED, False)])
def test_only_an_ordinary_download_is_recorded(request_: RepoRequest, is_recorded: bool) -> None:
    """No other task may use a forced download in place of its own."""
    flight = Flight("name", waited=True)
    lock = DownloadLock(flight, request_)

    lock.keep(reference(request_))

    assert flight.kept == ({"reference": reference(request_)} if is_recorded else None)
    assert lock.waited
