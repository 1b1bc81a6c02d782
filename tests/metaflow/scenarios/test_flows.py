"""Whole flows: both decorators of metaflow-checkpoint, other stores, killed attempts."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("metaflow.decorators")

from hftransfer.testing import Fault, Stall
from support.s3 import client_params

if TYPE_CHECKING:
    from hftransfer.testing import HubServer
    from hftransfer.testing.s3 import S3Server
    from support.metaflow_flows import FlowRun, FlowRunner, S3Datastore

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(240)]

REPO = "bert-base-uncased"
SAVED = {"weights.bin": 9_000_000, "deep/config.json": 2}
FILES = [
    ".gitattributes",
    "README.md",
    "config.json",
    "coreml/weights/weight.bin",
    "model.safetensors",
    "tokenizer.json",
    "vocab.txt",
]


def cards_of(run: FlowRun, step: str) -> set[str]:
    """Return the names of a step's card files, each with whether it is the last update."""
    run_id = run.probe["saved"][0]["pathspec"].split("/")[1]
    folder = run.work / ".metaflow" / "mf.cards" / "CheckpointFlow" / "runs" / run_id
    found = set()
    for file in (folder / "steps" / step).rglob("*-*.*"):
        text = file.read_text()
        final = re.search(r'reload_token"?\s*[=:]\s*"final', text, re.IGNORECASE) is not None
        name = re.sub("[0-9a-f]{32}", "UUID", file.name)
        found.add(f"{file.parent.name}/{name} {final}")
    return found


def test_checkpoints_and_models_with_and_without_hftransfer(
    local_runner: FlowRunner, upstream_python: str
) -> None:
    """In both formats each environment loads what it and what the other saved."""
    theirs = local_runner.run("checkpoint_flow.py", python=upstream_python)
    ours = local_runner.run(
        "checkpoint_flow.py", environ={"LOAD": json.dumps(theirs.probe["saved"])}
    )
    again = local_runner.run(
        "checkpoint_flow.py",
        python=upstream_python,
        environ={"LOAD": json.dumps(ours.probe["saved"])},
    )

    assert theirs.probe["found"] == [SAVED] * 4
    assert ours.probe["found"] == [SAVED] * 8
    assert again.probe["found"] == [SAVED] * 8
    assert "the slower transfers" not in ours.output
    assert "cards/blank-model_card-UUID.html True" in cards_of(ours, "start")
    assert cards_of(ours, "start") == cards_of(theirs, "start")
    assert cards_of(ours, "end") == cards_of(theirs, "end")


def test_checkpoints_and_models_on_s3(s3_runner: FlowRunner) -> None:
    """Both decorators, both formats, by reference and by the names of artifacts."""
    run = s3_runner.run("checkpoint_flow.py")

    assert run.probe["found"] == [SAVED] * 4
    assert "the slower transfers" not in run.output


@pytest.mark.parametrize(
    ("kind", "first"), [("local", "ours"), ("local", "theirs"), ("s3", "ours")]
)
def test_repositories_with_and_without_hftransfer(
    request: pytest.FixtureRequest,
    kind: str,
    first: str,
    upstream_python: str,
    model_hub: HubServer,
) -> None:
    """What one environment stored is a hit in the other."""
    runner: FlowRunner = request.getfixturevalue(f"{kind}_runner")
    probe = {"load": [{"repo_id": REPO}], "cache_scope": "flow" if first == "ours" else "global"}
    pythons = [None, upstream_python] if first == "ours" else [upstream_python, None]

    stored = runner.run("probe_flow.py", probe=probe, python=pythons[0]).probe
    model_hub.clear_requests()
    found = runner.run("probe_flow.py", probe=probe, python=pythons[1]).probe

    assert stored["decorator"] != found["decorator"]
    assert found["info"][REPO]["key"] == stored["info"][REPO]["key"]
    assert found["info"][REPO]["cache_hit"] is True
    assert model_hub.requests == []
    assert set(found["files"][REPO]) >= set(FILES)


def test_an_artifact_store_with_parameters_of_its_own(
    local_runner: FlowRunner, minio: S3Server, s3_datastore: S3Datastore
) -> None:
    """@with_artifact_store works for several repositories, and its secret is on no command line."""
    store = {
        "root": f"s3://{s3_datastore.bucket}/elsewhere",
        "client_params": client_params(minio),
    }

    run = local_runner.run("store_flow.py", environ={"ARTIFACT_STORE": json.dumps(store)})

    assert run.code == 0, run.output
    assert minio.secret_key not in run.output
    assert len(s3_datastore.below("elsewhere/mf.huggingface_hub/checkpoints/artifacts/")) == 4
    assert s3_datastore.below("root/mf.huggingface_hub/checkpoints/artifacts/StoreFlow") == []
    metadata = (local_runner.work / ".metaflow" / "StoreFlow").rglob("*.json")
    assert not [file for file in metadata if minio.secret_key in file.read_text()]


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.extended)])
def test_nodes_of_a_gang(request: pytest.FixtureRequest, kind: str, model_hub: HubServer) -> None:
    """@parallel: one node reads the Hub for all; each checkpoint has the files of its nodes.

    All nodes have the same keys, so checkpoints with the same name are one, with all their files.
    """
    runner: FlowRunner = request.getfixturevalue(f"{kind}_runner")
    model_hub.clear_requests()

    # Metaflow starts the other nodes with the `python` that PATH names first.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    # Variables of the nodes of a cluster; the control task is the second one here.
    cluster = {"MF_PARALLEL_CONTROL_TASK_ID": "2", "MF_PARALLEL_NUM_NODES": "2"}

    seen = runner.run("parallel_flow.py", environ={"PATH": path, **cluster}).probe

    assert seen["files"] == [sorted(path.rpartition("/")[2] for path in FILES)] * 2
    assert len(set(seen["entries"])) == 1
    assert len([asked for asked in model_hub.requests if "/tree/" in asked.path]) == 1
    parts = [{"part-0": "0"}, {"part-1": "1"}]
    assert sorted(seen["own"], key=str) == parts
    assert seen["together"] == [{**parts[0], **parts[1]}] * 2


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_retry_resumes_a_killed_attempt(
    request: pytest.FixtureRequest, kind: str, model_hub: HubServer
) -> None:
    """After kill -9 the next attempt reads the missing chunks only, and nothing else is left."""
    runner: FlowRunner = request.getfixturevalue(f"{kind}_runner")
    stalled = model_hub.add_fault(
        Fault(action=Stall(0), host="cdn", path="*/large.bin", after=6, times=None)
    )
    # Six of eight chunks are received, one after the other; at most two are in memory.
    environ = {
        "HFTRANSFER_CHUNK_SIZE": "5MiB",
        "HFTRANSFER_CONNECTIONS": "1",
        "HFTRANSFER_MEMORY_BUDGET": "10MiB",
    }

    run, sent = killed_once(runner, model_hub, stalled, environ)

    assert run.code == 0, run.output
    assert run.probe == {"attempt": 1, "files": {"large.bin": 40_000_000}}
    # Chunks in memory may not have been stored yet.
    assert sent <= 40_000_000 - 4 * (5 << 20)
    assert not list(runner.temporary.glob("*metaflow_hf_*"))
    stored = [key for key in keys(request, kind) if "/artifacts/RetryFlow/" in key]
    assert [key.rpartition("/")[2] for key in stored] == ["large.bin"]


def killed_once(
    runner: FlowRunner, hub: HubServer, stalled: Any, environ: dict[str, str]
) -> tuple[FlowRun, int]:
    """Kill the first attempt when the Hub stalls; return the run, and the bytes the retry read."""
    with runner.start("retry_flow.py", environ=environ) as process:
        assert process.stdout is not None
        started = next(line for line in process.stdout if "Task is starting" in line)
        (pid,) = re.findall(r"\(pid (\d+)\)", started)
        try:
            assert stalled.wait(60)
        finally:
            os.kill(int(pid), signal.SIGKILL)
            hub.clear_faults()
            hub.release()
        hub.wait_idle()
        hub.clear_requests()
        output, _ = process.communicate()
    sent = sum(request.bytes_sent for request in hub.requests if request.host == "cdn")
    return runner.finished(process.returncode, output), sent


def keys(request: pytest.FixtureRequest, kind: str) -> list[str]:
    """Return the keys of the datastore's repositories."""
    if kind == "s3":
        datastore: S3Datastore = request.getfixturevalue("s3_datastore")
        return datastore.below()
    runner: FlowRunner = request.getfixturevalue("local_runner")
    return ["/" + path for path in runner.stored()]
