"""``@huggingface_hub`` in whole flows: what a step gets, and what is left after it."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("metaflow.decorators")

from hftransfer.testing import Fault, Stall
from support.metaflow_stores import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hftransfer.testing import HubServer
    from support.metaflow_flows import FlowRunner, S3Datastore

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(120)]

REPO = "bert-base-uncased"
PRIVATE_REPO = "acme/private"
TOKEN = "hf_SECRETsecretSECRETsecret"
OURS = "metaflow_extensions.hftransfer.plugins.decorator"
WAIT = 40.0


@pytest.fixture(scope="module")
def seen(local_runner: FlowRunner) -> dict[str, Any]:
    """One run with all forms of ``load=`` as JSON, with calls, and with a token."""
    probe = {
        "load": [
            [REPO, "./pair"],
            [{"repo_id": PRIVATE_REPO, "token": TOKEN}, "./private"],
        ],
        "calls": [
            {"repo_id": REPO, "allow_patterns": "*.json", "max_workers": 30, "tqdm_class": None},
            {"repo_id": REPO, "allow_patterns": ["*.json"], "local_dir_use_symlinks": False},
            {"repo_id": REPO, "allow_patterns": "*.json", "revision": "v2"},
            {"repo_id": REPO, "allow_patterns": "*.json", "force_download": True},
            {"repo_id": REPO, "allow_patterns": "*.json"},
            {"repo_id": PRIVATE_REPO, "token": TOKEN, "force_download": True},
        ],
        "blocks": [{"repo_id": REPO, "revision": "v2", "allow_patterns": ["config.json"]}],
        "temp_dir_root": "./made/on/demand",
    }
    return local_runner.run("probe_flow.py", probe=probe).probe


def test_pairs_from_json_load_to_their_paths(seen: dict[str, Any]) -> None:
    """A list of two items is a pair, and `loaded` has the path as it was written."""
    assert seen["decorator"] == OURS
    assert seen["loaded"] == {REPO: "./pair", PRIVATE_REPO: "./private"}
    assert len(seen["files"][REPO]) == 7
    assert seen["missing"] is False


def test_info_says_how_each_repository_was_loaded(seen: dict[str, Any]) -> None:
    """`loaded.info` has the reference and the request."""
    info = seen["info"][REPO]

    assert info["cache_hit"] is False
    assert info["force_download"] is False
    assert info["hf_kwargs"] == {"repo_id": REPO, "repo_type": "model"}
    assert info["metadata"]["hftransfer"]["commit"]


def test_a_reference_has_the_keys_of_metaflow_checkpoints(seen: dict[str, Any]) -> None:
    """The reference can be used wherever one of metaflow-checkpoint can."""
    reference = seen["references"][0]

    assert set(reference) == {
        *("size", "pathspec", "pathspec_hash", "attempt", "key", "type", "url", "name"),
        *("created_on", "metadata", "storage_format", "creation_context", "version_id"),
    }
    assert reference["type"] == "checkpoint"
    assert reference["storage_format"] == "files"
    assert reference["url"].endswith("/.metaflow/" + reference["key"])
    assert reference["size"] == len('{"revision": "main"}') + len("{}")
    assert {"repo_id": REPO, "registry": "huggingface", "repo_type": "model"}.items() <= (
        reference["metadata"].items()
    )


def test_an_entry_satisfies_the_same_selection_and_revision_only(seen: dict[str, Any]) -> None:
    """Equal requests share an entry; other revisions and forced downloads have their own."""
    keys = [reference["key"] for reference in seen["references"]]

    assert keys[0] == keys[1]
    assert keys[2] not in keys[:2]
    assert keys[3] not in keys[:3]
    # The forced download is the newest, so later requests get it.
    assert keys[4] == keys[3]


def test_load_as_a_block_cleans_up(seen: dict[str, Any]) -> None:
    """The files of `load()` are below temp_dir_root inside the block, and removed after it."""
    ((path, files),) = seen["blocks"].items()

    assert "/made/on/demand/metaflow_hf_" in os.path.abspath(path)
    assert files == {"config.json": '{"revision": "v2"}'}
    assert seen["left"] == []


def test_token_is_neither_stored_nor_shown(seen: dict[str, Any], local_runner: FlowRunner) -> None:
    """No file of the datastore and no output has the token of load= or of a call."""
    assert TOKEN not in json.dumps(seen)
    files = [file for file in local_runner.work.rglob("*") if file.is_file()]

    assert len(files) > 20
    assert [file for file in files if "huggingface_hub_models" in file.name]
    for file in files:
        assert TOKEN.encode() not in unpacked(file.read_bytes()), file


def test_token_of_a_command_line_is_not_stored(runner: FlowRunner) -> None:
    """`--with` reaches the task with its token; the stored graph of the run does not have it."""
    entry = json.dumps([{"repo_id": PRIVATE_REPO, "token": TOKEN}])

    run = runner.run("plain_flow.py", f"--with=huggingface_hub:load={entry}")

    assert run.code == 0, run.output
    assert run.output.count(f"Downloaded {PRIVATE_REPO}") == 2  # once for each step
    files = [file for file in runner.work.rglob("*") if file.is_file()]
    assert [file for file in files if PRIVATE_REPO.encode() in unpacked(file.read_bytes())]
    for file in files:
        assert TOKEN.encode() not in unpacked(file.read_bytes()), file


def test_arguments_without_effect_are_named_once(runner: FlowRunner) -> None:
    """One line for the whole run, for load= and for calls."""
    load = [{"repo_id": REPO, "max_workers": 3, "allow_patterns": "*.json"}]
    run = runner.run("probe_flow.py", probe={"load": load, "calls": load * 2})

    assert run.code == 0, run.output
    assert run.output.count("@huggingface_hub: max_workers has no effect.") == 1


def test_spin_uses_what_runs_have_stored(runner: FlowRunner) -> None:
    """`spin` runs the decorator and finds the entry in the datastore of the run that it tries."""
    probe = {"load": [{"repo_id": REPO, "allow_patterns": "*.json"}]}
    stored = runner.run("probe_flow.py", probe=probe).probe
    found = runner.run("probe_flow.py", "start", probe=probe, command=("spin",)).probe

    assert found["info"][REPO]["cache_hit"] is True
    assert found["info"][REPO]["key"] == stored["info"][REPO]["key"]


@pytest.mark.parametrize("namespace", ["user:other", ""])
def test_other_namespaces(runner: FlowRunner, namespace: str) -> None:
    """Runs with `--namespace` share what they store, and can be resumed."""
    probe = {"load": [{"repo_id": REPO, "allow_patterns": "*.json"}]}
    runs = [runner.run("probe_flow.py", "--namespace", namespace, probe=probe) for _ in range(2)]
    checkpoints = runner.run("checkpoint_flow.py", "--namespace", namespace)
    resumed = runner.run("probe_flow.py", "start", probe=probe, command=("resume",))

    assert [run.probe["info"][REPO]["cache_hit"] for run in runs] == [False, True]
    assert checkpoints.code == 0, checkpoints.output
    assert resumed.probe["files"][REPO] == runs[0].probe["files"][REPO]


def test_wrong_token_is_not_shown(runner: FlowRunner) -> None:
    """A refused token is in no message, traceback or file."""
    wrong = "hf_WRONGwrongWRONGwrong"
    probe = {"load": [{"repo_id": PRIVATE_REPO, "token": wrong}]}

    run = runner.run("probe_flow.py", probe=probe)

    assert run.code != 0
    assert PRIVATE_REPO in run.output
    assert wrong not in run.output
    files = [file for file in runner.work.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert wrong.encode() not in unpacked(file.read_bytes()), file


def test_the_steps_own_error_is_shown(runner: FlowRunner) -> None:
    """A failing step ends with its own error, and its temporary folder is removed."""
    probe = {"fail": True, "load": [{"repo_id": REPO, "allow_patterns": "*.json"}]}

    run = runner.run("probe_flow.py", probe=probe)

    assert run.code != 0
    assert "RuntimeError: the user's own error" in run.output
    assert "AttributeError" not in run.output
    assert not list(runner.temporary.glob("metaflow_hf_*"))


@pytest.mark.parametrize("upstream", [True, False], ids=["upstream", "ours"])
def test_a_step_adds_to_the_card_of_the_models(runner: FlowRunner, upstream: bool) -> None:
    """`current.card["huggingface_hub_models"]` exists without a @card of the user."""
    note = "a note of the step " + "." * 400  # long enough for `unpacked`

    run = runner.run("probe_flow.py", probe={"card": note}, upstream=upstream)

    assert run.probe["decorator"].startswith("metaflow_extensions.hftransfer.") is not upstream
    pages = list(runner.work.rglob("*huggingface_hub_models*.html"))
    assert pages
    assert note.encode() in b"".join(unpacked(page.read_bytes()) for page in pages)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("bert", 'load must be a list, not "bert"'),
        ([["a/b", "c", "d"]], 'load entry ["a/b", "c", "d"] has 3 items'),
        ([{"repo_id": "a/b", "revison": "v1"}], "revison: unknown argument"),
    ],
)
def test_malformed_load_stops_the_flow_before_it_starts(
    runner: FlowRunner, load: object, message: str
) -> None:
    """A malformed load= is refused when the flow is parsed, before any task."""
    run = runner.run("probe_flow.py", probe={"load": load})

    assert run.code != 0
    assert message in run.output
    assert "Task is starting" not in run.output
    assert "Traceback" not in run.output


@pytest.mark.parametrize("call", [{"repo_id": "no/such"}, {"repo_id": REPO, "revision": "none"}])
def test_unknown_repository_and_revision_fail_clearly(
    runner: FlowRunner, call: dict[str, str]
) -> None:
    """The error names what does not exist, and nothing is stored."""
    run = runner.run("probe_flow.py", probe={"load": [call]})

    assert run.code != 0
    kind = "RepositoryNotFoundError" if "no/such" in call.values() else "RevisionNotFoundError"
    (line,) = (line for line in run.output.splitlines() if kind in line)
    assert list(call.values())[-1] in line
    assert "Traceback" not in run.output
    assert runner.stored() == {}


def test_unmatched_patterns_are_an_error(runner: FlowRunner) -> None:
    """An empty selection is not stored."""
    run = runner.run("probe_flow.py", probe={"load": [{"repo_id": REPO, "allow_patterns": "*.x"}]})

    assert run.code != 0
    assert "No file of bert-base-uncased is selected" in run.output
    assert runner.stored() == {}


@pytest.fixture
def stalled(model_hub: HubServer) -> Iterator[Any]:
    """The Hub stops in the middle of the large file; yields the handle of that fault."""
    fault = Fault(action=Stall(1_000_000), host="cdn", path="*/model.safetensors", times=None)
    handle = model_hub.add_fault(fault)
    yield handle
    model_hub.clear_faults()
    model_hub.release()


@pytest.mark.parametrize("order", ["timeout above", "timeout below"])
def test_timeout_leaves_nothing_in_the_datastore(
    runner: FlowRunner, stalled: Any, order: str
) -> None:
    """Metaflow's @timeout interrupts a load wherever it is written; the entry is removed."""
    runner.environ["ORDER"] = order
    output = interrupt_in_the_middle(runner, stalled, signal.SIGALRM, "timeout_flow.py")

    assert "timed out after 0 hours, 2 minutes, 0 seconds" in output
    assert runner.stored() == {}
    assert not list(runner.temporary.glob("metaflow_hf_*"))


def test_sigterm_leaves_nothing_in_the_local_datastore(runner: FlowRunner, stalled: Any) -> None:
    """A terminated task removes its entry and its temporary folder."""
    interrupt_in_the_middle(runner, stalled, signal.SIGTERM, "probe_flow.py")

    assert runner.stored() == {}
    assert not list(runner.temporary.glob("metaflow_hf_*"))


def test_sigterm_leaves_nothing_in_s3(
    s3_runner: FlowRunner, s3_datastore: S3Datastore, stalled: Any
) -> None:
    """The bucket has neither objects nor an unfinished multipart upload."""
    interrupt_in_the_middle(s3_runner, stalled, signal.SIGTERM, "probe_flow.py")

    assert s3_datastore.below() == []
    uploads = s3_datastore.client.list_multipart_uploads(Bucket=s3_datastore.bucket)
    assert uploads.get("Uploads", []) == []


def interrupt_in_the_middle(
    runner: FlowRunner, stalled: Any, number: signal.Signals, flow: str
) -> str:
    """Start a load, and send its task a signal when the Hub is in the middle of a file.

    Returns:
        The output of the failed run.
    """
    with runner.start(flow, probe={"load": [REPO]}) as process:
        assert process.stdout is not None
        # The first line of the task: Metaflow prints a later one only when another follows.
        started = next(line for line in process.stdout if "Task is starting" in line)
        (pid,) = re.findall(r"\(pid (\d+)\)", started)
        assert stalled.wait(WAIT)
        os.kill(int(pid), number)
        output, _ = process.communicate()
    assert process.returncode != 0, output
    return str(output)
