"""Checkpoints and models in the flow's datastore, with and without a metadata service."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

if TYPE_CHECKING:
    from support.metaflow_flows import FlowRunner, S3Datastore

from support.metaflow_pods import in_pods, interpreter

pytestmark = [pytest.mark.metaflow, pytest.mark.timeout(300)]

REPO = "bert-base-uncased"
SAVED = {"weights.bin": 9_000_000, "deep/config.json": 2}


@pytest.mark.slow
@pytest.mark.parametrize("root", ["root", pytest.param("elsewhere", marks=pytest.mark.extended)])
def test_the_datastore_of_the_command_line_is_used(
    s3_runner: FlowRunner, s3_datastore: S3Datastore, root: str
) -> None:
    """With --datastore s3, though local is the default, checkpoints and models are in S3.

    They can be loaded in the flow, by their references outside of it, and are listed there.
    """
    root_url = f"s3://{s3_datastore.bucket}/{root}"
    command = ["--datastore", "s3", "--datastore-root", root_url, "run"]
    environ = {"METAFLOW_DEFAULT_DATASTORE": "local"}

    run = s3_runner.run("checkpoint_flow.py", command=command, environ=environ)

    saved = run.probe["saved"]
    assert run.probe["found"] == [SAVED] * 4
    assert {reference["url"].startswith(root_url + "/") for reference in saved} == {True}
    assert not (s3_runner.work / ".metaflow" / "mf.checkpoints").exists()
    assert not (s3_runner.work / ".metaflow" / "mf.models").exists()
    (run_id,) = set(re.findall(r"\[(\d+)/start/", run.output))
    reader = s3_runner.run(
        "reader.py", command=[f"CheckpointFlow/{run_id}", json.dumps(saved)], environ=environ
    )
    sizes = reader.probe["sizes"]
    assert sizes == [9_000_002] * 4
    assert reader.probe["listed"] == ["files", "tar"]


@pytest.mark.slow
def test_repositories_are_in_the_datastore_of_the_command_line(
    s3_runner: FlowRunner, s3_datastore: S3Datastore
) -> None:
    """@huggingface_hub stores entries where the flow's artifacts are, and finds them again."""
    root_url = f"s3://{s3_datastore.bucket}/repositories"
    command = ["--datastore", "s3", "--datastore-root", root_url, "run"]
    environ = {"METAFLOW_DEFAULT_DATASTORE": "local"}
    probe = {"load": [{"repo_id": REPO, "allow_patterns": "*.json"}]}

    runs = [
        s3_runner.run("probe_flow.py", command=command, environ=environ, probe=probe)
        for _ in range(2)
    ]

    hits = [run.probe["info"][REPO]["cache_hit"] for run in runs]
    assert hits == [False, True]
    assert runs[0].probe["info"][REPO]["url"].startswith(root_url + "/mf.huggingface_hub/")


@pytest.mark.slow
def test_checkpoints_need_no_metadata_service(
    s3_runner: FlowRunner, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a pod without the run's metadata a task saves, and its retry loads."""
    folder = interpreter(tmp_path_factory.mktemp("full"), bare=False)
    environ = {**in_pods(folder), "POD_WITHOUT_METADATA": "1"}

    run = s3_runner.run("again_flow.py", "--with", "kubernetes", environ=environ)

    assert run.probe == {"loaded": True, "weights": "of the first attempt", "files": 2}
