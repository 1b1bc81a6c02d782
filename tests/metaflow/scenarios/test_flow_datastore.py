"""Checkpoints and models lie in the datastore of the flow, with or without a metadata service."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

if TYPE_CHECKING:
    from metaflow.conftest import FlowRunner, S3Datastore

from metaflow_extensions.hftransfer.plugins.patches import missing_metadata
from support.metaflow_pods import in_pods, interpreter

pytestmark = [pytest.mark.metaflow, pytest.mark.timeout(300)]

REPO = "bert-base-uncased"
SAVED = {"weights.bin": 9_000_000, "deep/config.json": 2}


def test_the_client_of_the_flows_datastore_serves_its_checkpoints_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no parameters are given; those of an artifact store get a client of their own."""
    from metaflow.plugins.datatools.s3.s3 import S3Client

    from metaflow_extensions.hftransfer.plugins.engine import flow_env, s3_clients

    monkeypatch.setattr(s3_clients, "_clients", {})
    monkeypatch.setenv(flow_env._VARIABLE, "")
    own = S3Client()
    storage = SimpleNamespace(s3_client=own)
    flow_env.remember_datastore(
        SimpleNamespace(TYPE="s3", datastore_root="s3://b/p", _storage_impl=storage)
    )

    assert s3_clients.shared_client(None, None, None) is own
    assert s3_clients.shared_client(None, None, {"verify": False}) is not own


@pytest.mark.parametrize("given", [{"s3_role_arn": "arn"}, {"s3_client_params": {"verify": False}}])
def test_a_client_with_parameters_is_nobody_elses(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    """A datastore of another extension may have made it so."""
    from metaflow.plugins.datatools.s3.s3 import S3Client

    from metaflow_extensions.hftransfer.plugins.engine import s3_clients

    monkeypatch.setattr(s3_clients, "_clients", {})
    special = S3Client(**given)
    s3_clients.share_client(SimpleNamespace(s3_client=special))

    assert s3_clients.shared_client(None, None, None) is not special


@pytest.mark.slow
@pytest.mark.parametrize("root", ["root", "elsewhere"])
def test_the_datastore_of_the_command_line_is_used(
    s3_runner: FlowRunner, s3_datastore: S3Datastore, root: str
) -> None:
    """With --datastore s3, though local is the default, checkpoints and models are in S3, too.

    They come back in the flow, by their references outside of it, and are listed there.
    """
    place = f"s3://{s3_datastore.bucket}/{root}"
    command = ["--datastore", "s3", "--datastore-root", place, "run"]
    environ = {"METAFLOW_DEFAULT_DATASTORE": "local"}

    run = s3_runner.run("checkpoint_flow.py", command=command, environ=environ)

    saved = run.probe["saved"]
    assert run.probe["found"] == [SAVED] * 4
    assert {reference["url"].startswith(place + "/") for reference in saved} == {True}
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
    """@huggingface_hub stores where the flow's artifacts are, and finds that again."""
    place = f"s3://{s3_datastore.bucket}/repositories"
    command = ["--datastore", "s3", "--datastore-root", place, "run"]
    environ = {"METAFLOW_DEFAULT_DATASTORE": "local"}
    probe = {"load": [{"repo_id": REPO, "allow_patterns": "*.json"}]}

    runs = [
        s3_runner.run("probe_flow.py", command=command, environ=environ, probe=probe)
        for _ in range(2)
    ]

    hits = [run.probe["info"][REPO]["cache_hit"] for run in runs]
    assert hits == [False, True]
    assert runs[0].probe["info"][REPO]["url"].startswith(place + "/mf.huggingface_hub/")


@pytest.mark.slow
def test_checkpoints_need_no_metadata_service(
    s3_runner: FlowRunner, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a pod that cannot see the run's metadata a task saves, and its retry loads."""
    folder = interpreter(tmp_path_factory.mktemp("full"), bare=False)
    environ = {**in_pods(folder), "POD_WITHOUT_METADATA": "1"}

    run = s3_runner.run("again_flow.py", "--with", "kubernetes", environ=environ)

    assert run.probe == {"loaded": True, "weights": "of the first attempt", "files": 2}


@pytest.mark.parametrize("tags", [["checkpoint:mine", "other"], ["other"]])
def test_a_runs_special_tag_decides_about_the_scope(
    tags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without metadata the tags of the command line name it, as those of the run would."""
    from metaflow.client import core as client
    from metaflow.exception import MetaflowNotFound

    import metaflow
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        core,
    )

    monkeypatch.setattr(client, "current_namespace", "user:tester")
    monkeypatch.setattr(metaflow.current, "_tags", tags, raising=False)
    is_special = tags[0].startswith("checkpoint:")
    resolver = core.ScopeResolver
    expected = resolver.from_tags(tags) if is_special else resolver.from_namespace()
    lines: list[str] = []

    def unreachable(self: Any) -> Any:
        raise MetaflowNotFound("no such run")

    decorator = SimpleNamespace(_logger=lambda line, **options: lines.append(line))

    assert missing_metadata.resolve_scope(unreachable)(decorator) == expected
    assert bool(lines) == is_special
