"""The two documented flows, each run twice, on a local datastore and on S3."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("metaflow.decorators")

if TYPE_CHECKING:
    from pathlib import Path

    from hftransfer.testing import HubServer
    from support.metaflow_flows import FlowRun, FlowRunner, S3Datastore

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(240)]

ALL_FILES = (
    "Its files: .gitattributes, README.md, config.json, coreml/weights/weight.bin, "
    "model.safetensors, tokenizer.json, vocab.txt\n"
)
SOME_FILES = "Its files: config.json, tokenizer.json, vocab.txt\n"


@dataclass(frozen=True)
class Runs:
    """Both flows, first with an empty datastore and then with a full one."""

    cold: tuple[FlowRun, FlowRun]
    warm: tuple[FlowRun, FlowRun]
    warm_requests: int
    """What the second runs asked the Hub for."""


def run_twice(runner: FlowRunner, hub: HubServer) -> Runs:
    """Run both example flows twice."""

    def both() -> tuple[FlowRun, FlowRun]:
        static = runner.run(runner.examples / "static_load_flow.py")
        return static, runner.run(runner.examples / "dynamic_load_flow.py")

    cold = both()
    assert cold[0].code == 0, cold[0].output
    (runner.work / "model_directory" / "notes.txt").write_text("private")
    hub.clear_requests()
    return Runs(cold, both(), len(hub.requests))


@pytest.fixture(scope="module")
def local_runs(local_runner: FlowRunner, model_hub: HubServer) -> Runs:
    return run_twice(local_runner, model_hub)


@pytest.fixture(scope="module")
def s3_runs(s3_runner: FlowRunner, model_hub: HubServer) -> Runs:
    return run_twice(s3_runner, model_hub)


@pytest.fixture(params=["local_runs", "s3_runs"])
def runs(request: pytest.FixtureRequest) -> Runs:
    """The runs on each datastore."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Runs)
    return found


def test_flows_pass_twice(runs: Runs) -> None:
    """Both flows succeed with a cold and with a warm datastore, also into an existing folder."""
    for run in (*runs.cold, *runs.warm):
        assert run.code == 0, run.output


def test_steps_get_exactly_the_requested_files(runs: Runs) -> None:
    """Whole repositories and selections are complete, cold and warm."""
    for static, dynamic in (runs.cold, runs.warm):
        assert static.output.count(SOME_FILES) == 1
        assert "Its files: config.json, tokenizer.json\n" in dynamic.output
    assert runs.cold[0].output.count(ALL_FILES) == 2
    # The folder of the second step keeps the user's file.
    assert runs.warm[0].output.count(ALL_FILES) == 1
    assert runs.warm[0].output.count(ALL_FILES.replace("tok", "notes.txt, tok")) == 1


def test_warm_runs_send_no_request_to_the_hub(runs: Runs) -> None:
    """Everything is in the datastore."""
    assert runs.warm_requests == 0


def test_log_has_two_lines_for_each_load(runs: Runs) -> None:
    """What begins and from where, then what came; without carriage returns."""
    key = "mf.huggingface_hub/checkpoints/artifacts/StaticLoadFlow/start/"
    cold, warm = runs.cold[0].output, runs.warm[0].output
    begin, end = "[@huggingface_hub] Downloading bert-base-uncased", "Downloaded bert-base-uncased"
    assert f"{begin} from the Hugging Face Hub to ./model_directory and the datastore\n" in cold
    assert f"[@huggingface_hub] {end} at commit " in cold
    assert f"key: {key}" in cold
    assert "Downloading" not in warm
    into = "[@huggingface_hub] Loading bert-base-uncased from the datastore to ./model_directory\n"
    assert into in warm
    assert "every chunk verified; key: " in warm
    assert f"[@huggingface_hub] {end} at commit " in runs.cold[1].output
    assert "[@model] Loaded artifact `reference[type:checkpoint]` in" in runs.warm[1].output
    assert "\r" not in cold + warm


def test_local_datastore_holds_only_files_of_the_repository(
    local_runs: Runs, local_runner: FlowRunner
) -> None:
    """Neither the user's files beside a model nor metadata of huggingface_hub are stored."""
    stored = local_runner.stored()
    data = [path for path in stored if path.startswith("checkpoints/artifacts/")]

    assert len(data) == 7 + 7 + 3 + 2
    assert not [path for path in stored if "notes.txt" in path or ".cache" in path]
    assert (local_runner.work / "model_directory" / "notes.txt").read_text() == "private"


def test_s3_datastore_holds_only_files_of_the_repository(
    s3_runs: Runs, s3_datastore: S3Datastore
) -> None:
    """The same files as on the local datastore."""
    data = s3_datastore.below("root/mf.huggingface_hub/checkpoints/artifacts/")

    assert len(data) == 7 + 7 + 3 + 2
    assert not [key for key in s3_datastore.below() if "notes.txt" in key or ".cache" in key]


def test_local_loads_are_copies(local_runs: Runs, local_runner: FlowRunner) -> None:
    """A change to a loaded file does not reach the datastore."""
    loaded = list((local_runner.work / "model_directory").rglob("*.json"))

    assert loaded
    for file in loaded:
        assert not file.is_symlink()
        assert file.stat().st_nlink == 1


def test_keys_of_loaded_models_are_registered(local_runs: Runs, local_runner: FlowRunner) -> None:
    """The task's metadata names the entries that it used, as with metaflow-checkpoint."""
    found = metadata(local_runner.work, "StaticLoadFlow", "hf-loaded-models")

    assert len(found) == 6
    for datum in found:
        assert datum["type"] == "model-registry"
        (key,) = json.loads(datum["value"])["keys"]
        assert (local_runner.work / ".metaflow" / key / "config.json").is_file()


def test_temporary_folders_are_removed(
    local_runs: Runs, s3_runs: Runs, local_runner: FlowRunner, s3_runner: FlowRunner
) -> None:
    """Folders of loads without a path are removed at the end of the task."""
    for runner in (local_runner, s3_runner):
        assert not list(runner.temporary.glob("metaflow_hf_*"))


def metadata(work: Path, flow: str, field: str) -> list[dict[str, str]]:
    """Return what tasks of `flow` registered under `field`."""
    files = (work / ".metaflow" / flow).rglob(f"*{field}*.json")
    return [json.loads(file.read_text()) for file in files]
