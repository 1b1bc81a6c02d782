"""Steps run as in a cluster: from the code package, in an environment of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("metaflow.decorators")

from support.metaflow_pods import in_pods, interpreter

if TYPE_CHECKING:
    from pathlib import Path

    from support.metaflow_flows import FlowRunner

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(300)]

REPO = "bert-base-uncased"
FILES = {
    *(".gitattributes", "README.md", "config.json", "coreml/weights/weight.bin"),
    *("model.safetensors", "tokenizer.json", "vocab.txt"),
}


def run_in_pod(runner: FlowRunner, bin_folder: Path, probe: dict[str, Any]) -> Any:
    return runner.run("probe_flow.py", probe=probe, environ=in_pods(bin_folder))


def test_a_pod_loads_with_and_without_the_engines_packages(
    s3_runner: FlowRunner, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With boto3 and requests alone a step loads without the engine, else with it.

    What one of them stored is a hit in the other and in a local run.
    """
    bare = interpreter(tmp_path_factory.mktemp("bare"), bare=True)
    full = interpreter(tmp_path_factory.mktemp("full"), bare=False)
    plain = {"load": [{"repo_id": REPO}], "cache_scope": "flow"}
    version = {"load": [{"repo_id": REPO, "revision": "v2"}], "cache_scope": "flow"}

    slow_miss = run_in_pod(s3_runner, bare, plain)
    fast_hit = run_in_pod(s3_runner, full, plain)
    assert s3_runner.run("probe_flow.py", probe=version).code == 0
    slow_hit = run_in_pod(s3_runner, bare, version)

    for run, hit in ((slow_miss, False), (fast_hit, True), (slow_hit, True)):
        assert run.probe["info"][REPO]["cache_hit"] is hit, run.output
        assert set(run.probe["files"][REPO]) == FILES
        assert run.probe["decorator"].startswith("metaflow_extensions.hftransfer.")
    assert slow_miss.probe["files"][REPO]["config.json"] == '{"revision": "main"}'
    assert slow_hit.probe["files"][REPO]["config.json"] == '{"revision": "v2"}'
    for run in (slow_miss, slow_hit):
        assert run.output.count("Using the slower transfers") == 1
        assert 'to use the engine: pip install "hftransfer[metaflow]"' in run.output
        assert "every file verified" in run.output
    assert "the slower transfers" not in fast_hit.output
    # The entry was stored without the engine, so it has no digests of chunks.
    assert "every file verified" in fast_hit.output


@pytest.mark.parametrize(
    ("script", "is_packaged"), [("checkpoint_flow.py", True), ("plain_flow.py", False)]
)
def test_the_engine_is_packaged_with_flows_that_need_it(
    s3_runner: FlowRunner, script: str, is_packaged: bool
) -> None:
    """Only the code package of a flow with @model or @checkpoint has the engine."""
    with s3_runner.start(script, command=("package", "list")) as process:
        output, _ = process.communicate()

    assert process.returncode == 0, output
    assert ("hftransfer/_engine/transfer.py" in output) is is_packaged
    ours = [line for line in output.splitlines() if "hftransfer/" in line]
    assert not [line for line in ours if "__pycache__" in line or "/hftransfer/testing/" in line]
    assert "metaflow_extensions/hftransfer/plugins/patches/object_storage.py" in output
