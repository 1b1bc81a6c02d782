"""Other releases of metaflow-checkpoint: no flow fails because of a name that is gone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("metaflow.decorators")

from support.metaflow_flows import REPO, TESTS

if TYPE_CHECKING:
    from support.metaflow_flows import FlowRunner

pytestmark = [
    pytest.mark.metaflow,
    pytest.mark.slow,
    pytest.mark.extended,
    pytest.mark.timeout(180),
]

DECORATOR_DISABLED = (
    "Disabled: hftransfer's @huggingface_hub; metaflow-checkpoint's own is used. Reason: "
)
# A text of the release and the one in its place, whether our decorator runs, and the line that says
# what is disabled.
DRIFTS: dict[str, tuple[str, str, bool, str]] = {
    "a renamed method": ("_load_objects", "_load_all", True, "Disabled: loading files with the"),
    "a renamed class": ("ObjectStorage", "ObjectStore", False, DECORATOR_DISABLED),
    "a renamed function": ("init_hf_checkpoint", "init_hub", False, DECORATOR_DISABLED),
    "a new release": (
        *('package_version = "0.2.', 'package_version = "0.3.'),
        *(False, DECORATOR_DISABLED),
    ),
}


@pytest.fixture(params=list(DRIFTS.values()), ids=list(DRIFTS))
def drift(request: pytest.FixtureRequest) -> tuple[str, str, bool, str]:
    found: tuple[str, str, bool, str] = request.param
    return found


def _environ(drift: tuple[str, str, bool, str], folder: Path) -> dict[str, str]:
    """Return the variables with which the packages of a flow are those of `drift`."""
    paths = [str(TESTS / "metaflow" / "drift"), os.environ.get("PYTHONPATH", "")]
    return {
        "DRIFT": json.dumps([drift[:2]]),
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def test_flows_run_and_one_line_says_what_is_disabled(
    drift: tuple[str, str, bool, str], runner: FlowRunner, tmp_path: Path
) -> None:
    """By ours or by metaflow-checkpoint's own decorator; a flow without either runs as ever."""
    *_, is_ours, line = drift
    environ = _environ(drift, tmp_path)

    plain = runner.run("plain_flow.py", environ=environ)
    run = runner.run("probe_flow.py", probe={"load": [REPO]}, environ=environ)

    assert plain.code == 0, plain.output
    assert "Traceback" not in plain.output
    assert "config.json" in run.probe["files"][REPO]
    assert any("/manifests/" in name for name in runner.stored()) is is_ours
    assert run.output.count(line) == 1, run.output
