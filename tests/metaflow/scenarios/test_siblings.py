"""Siblings of a foreach, and a run after one that was killed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("metaflow.decorators")

from hftransfer.testing import Fault, Stall
from support.hub import listings

if TYPE_CHECKING:
    from hftransfer.testing import HubServer
    from support.metaflow_flows import FlowRunner, S3Datastore

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(240)]

REPO = "bert-base-uncased"


def keys(request: pytest.FixtureRequest, kind: str, below: str) -> list[str]:
    """Return the keys of the datastore's repositories that contain `below`."""
    if kind == "s3":
        datastore: S3Datastore = request.getfixturevalue("s3_datastore")
        found = datastore.below()
    else:
        runner: FlowRunner = request.getfixturevalue("local_runner")
        found = ["/" + path for path in runner.stored()]
    return [key for key in found if below in key]


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.extended)])
def test_a_foreach_stores_one_copy_which_the_incumbent_reads(
    request: pytest.FixtureRequest, kind: str, model_hub: HubServer
) -> None:
    """All siblings refer to one entry; metaflow-checkpoint's decorators find and load it too."""
    runner: FlowRunner = request.getfixturevalue(f"{kind}_runner")
    model_hub.clear_requests()

    ours = runner.run("foreach_flow.py").probe
    stored = keys(request, kind, "/artifacts/ForeachFlow/")
    asked = listings(model_hub)
    model_hub.clear_requests()
    theirs = runner.run("foreach_flow.py", upstream=True).probe

    assert asked == 1
    assert len(set(ours["keys"])) == 1
    assert sorted(ours["hits"]) == [False, True, True]
    assert len(stored) == 7
    assert theirs["keys"] == ours["keys"]
    assert theirs["hits"] == [True] * 3
    assert set(theirs["configs"]) == {'{"revision": "main"}'}
    assert model_hub.requests == []
    assert sorted(keys(request, kind, "/artifacts/ForeachFlow/")) == sorted(stored)


@pytest.mark.parametrize(
    ("kind", "scope"),
    [
        ("local", "checkpoint"),
        pytest.param("local", "flow", marks=pytest.mark.extended),
        pytest.param("s3", "checkpoint", marks=pytest.mark.extended),
    ],
)
def test_a_run_continues_what_a_killed_one_began(
    request: pytest.FixtureRequest, kind: str, scope: str, model_hub: HubServer
) -> None:
    """kill -9 without @retry: the next run reads the missing chunks, and nothing else is left."""
    runner: FlowRunner = request.getfixturevalue(f"{kind}_runner")
    probe = {"load": ["acme/chunks"], "cache_scope": scope}
    environ = {
        "HFTRANSFER_CHUNK_SIZE": "5MiB",
        "HFTRANSFER_CONNECTIONS": "1",
        "HFTRANSFER_MEMORY_BUDGET": "10MiB",
        "PROBE": json.dumps(probe),
    }
    before = keys(request, kind, "/artifacts/")
    stalled = model_hub.add_fault(
        Fault(action=Stall(0), host="cdn", path="*/large.bin", after=6, times=None)
    )
    with runner.start("probe_flow.py", environ=environ):
        assert stalled.wait(60)
    # The whole process group is killed at the end of the block.
    model_hub.clear_faults()
    model_hub.release()
    model_hub.wait_idle()
    model_hub.clear_requests()

    run = runner.run("probe_flow.py", environ=environ)

    assert run.probe["info"]["acme/chunks"]["cache_hit"] is False
    assert "waiting" not in run.output
    sent = sum(asked.bytes_sent for asked in model_hub.requests if asked.host == "cdn")
    assert sent <= 40_000_000 - 4 * (5 << 20)
    new = [key for key in keys(request, kind, "/artifacts/") if key not in before]
    assert [key.rpartition("/")[2] for key in new] == ["large.bin"]
    assert keys(request, kind, "/unfinished/") == []
    assert not list(runner.temporary.glob("*metaflow_hf_*"))
    assert not list(runner.temporary.rglob("*.lock"))


def test_loads_of_one_repository_are_all_listed(
    local_runner: FlowRunner, model_hub: HubServer
) -> None:
    """By patterns and revisions: in `info`, and in the metadata of the task."""
    load = [
        {"repo_id": REPO, "allow_patterns": "*.json"},
        {"repo_id": REPO, "allow_patterns": "*.txt"},
        {"repo_id": REPO, "allow_patterns": "*.txt", "revision": "v2"},
    ]

    found = local_runner.run("probe_flow.py", probe={"load": load}).probe
    metadata = [
        json.loads(file.read_text())
        for file in (local_runner.work / ".metaflow" / "ProbeFlow").rglob("*hf-loaded-models*")
    ]

    assert {name: set(files) for name, files in found["files"].items()} == {
        f"{REPO}@main[*.json]": {"config.json", "tokenizer.json"},
        f"{REPO}@main[*.txt]": {"vocab.txt"},
        f"{REPO}@v2[*.txt]": {"vocab.txt"},
        REPO: {"vocab.txt"},
    }
    listed = {found["info"][name]["key"] for name in found["info"]}
    assert listed in [set(json.loads(datum["value"])["keys"]) for datum in metadata]
    assert len(listed) == 3


def test_loads_without_names_of_their_own_are_refused(local_runner: FlowRunner) -> None:
    """Before any task starts."""
    run = local_runner.run("probe_flow.py", probe={"load": [REPO, REPO]})

    assert run.code != 0
    assert f"names model {REPO} twice with the same arguments" in run.output
    assert "Task is starting" not in run.output
