"""Caches of metaflow-checkpoint's own decorator are read by ours, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("metaflow.decorators")

if TYPE_CHECKING:
    from hftransfer.testing import HubServer
    from support.metaflow_flows import FlowRunner

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(120)]

REPO = "bert-base-uncased"
THEIRS = "metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.hf_hub.decorator"


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize(
    "cache_scope",
    [
        "checkpoint",
        pytest.param("flow", marks=pytest.mark.extended),
        pytest.param("global", marks=pytest.mark.extended),
    ],
)
def test_each_decorator_finds_what_the_other_stored(
    runner: FlowRunner, model_hub: HubServer, first: str, cache_scope: str
) -> None:
    """In every cache scope the second run finds the entry of the first, without the Hub.

    The request is in load=, because metaflow-checkpoint records its arguments only there.
    """
    probe: dict[str, Any] = {
        "cache_scope": cache_scope,
        "load": [{"repo_id": REPO, "allow_patterns": ["*.json", "*.bin"], "revision": "v2"}],
    }

    stored = runner.run("probe_flow.py", probe=probe, upstream=first == "theirs").probe
    model_hub.clear_requests()
    found = runner.run("probe_flow.py", probe=probe, upstream=first == "ours").probe

    theirs = stored if first == "theirs" else found
    assert theirs["decorator"] == THEIRS
    assert found["decorator"] != stored["decorator"]
    assert stored["info"][REPO]["cache_hit"] is False
    assert found["info"][REPO]["cache_hit"] is True
    assert found["info"][REPO]["key"] == stored["info"][REPO]["key"]
    assert model_hub.requests == []
    ours = found if first == "theirs" else stored
    assert set(ours["files"][REPO]) == {
        "config.json",
        "coreml/weights/weight.bin",
        "tokenizer.json",
    }


def test_plain_entry_without_a_record_is_a_hit(runner: FlowRunner, model_hub: HubServer) -> None:
    """An entry of metaflow-checkpoint's snapshot_download satisfies a plain request."""
    probe = {"calls": [{"repo_id": REPO}]}

    stored = runner.run("probe_flow.py", probe=probe, upstream=True).probe
    model_hub.clear_requests()
    found = runner.run("probe_flow.py", probe=probe).probe

    assert "hftransfer" not in stored["references"][0]["metadata"]
    assert found["references"] == stored["references"]
    assert model_hub.requests == []
