"""The README as a newcomer uses it: its quickstarts run unchanged, and its links lead to files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hftransfer.testing import HubServer, RandomFile

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REPO = "google-bert/bert-base-uncased"
FILES: dict[str, bytes | RandomFile] = {
    "config.json": b"{}",
    "model.safetensors": RandomFile(3_000_000, seed=1),
}


def quickstart(title: str) -> str:
    """Return the code block after the bold `title`."""
    found = re.search(rf"\*\*{re.escape(title)}\*\*.*?```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def run(command: Sequence[str], folder: Path, hub: HubServer) -> str:
    """Run a process in `folder` against `hub`; return what it printed."""
    environ = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder),
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
    }
    result = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def bert(hub: HubServer) -> HubServer:
    """A Hub with the repository that the README names."""
    hub.create_repo(REPO).commit(FILES)
    return hub


@pytest.mark.parametrize(
    "title", ["Decorate a Metaflow step.", "Embed the engine.", "Use the command line."]
)
def test_a_quickstart_has_eight_lines_at_most(title: str) -> None:
    """Longer examples are in the documentation."""
    assert 0 < len([line for line in quickstart(title).splitlines() if line]) <= 8


def test_the_readme_is_short() -> None:
    """About 120 lines: what and why, install, quickstarts, figures, compatibility, links."""
    assert len(README.splitlines()) <= 125


@pytest.mark.metaflow
@pytest.mark.timeout(120)
def test_the_metaflow_quickstart_runs(bert: HubServer, tmp_path: Path) -> None:
    """The flow loads the repository and prints where it is."""
    pytest.importorskip("metaflow.decorators")
    (tmp_path / "train.py").write_text(quickstart("Decorate a Metaflow step."))

    output = run([sys.executable, "train.py", "run"], tmp_path, bert)

    assert "Done!" in output


def test_the_embedding_quickstart_runs(bert: HubServer, tmp_path: Path) -> None:
    """The snapshot has the selected files, the copy all of them."""
    (tmp_path / "embed.py").write_text(quickstart("Embed the engine."))

    path, files, size, _ = run([sys.executable, "embed.py"], tmp_path, bert).split()

    assert [file.name for file in Path(path).iterdir()] == ["config.json"]
    assert (int(files), int(size)) == (2, 3_000_002)
    assert (tmp_path / "bert" / "model.safetensors").stat().st_size == 3_000_000


def test_the_command_line_quickstart_runs(bert: HubServer, tmp_path: Path) -> None:
    """The commands succeed, with a folder in place of the bucket."""
    lines = quickstart("Use the command line.").replace("s3://bucket/bert", "copy").splitlines()

    assert lines
    for line in lines:
        assert line.startswith("$ hftransfer ")
        run([sys.executable, "-m", *shlex.split(line)[1:]], tmp_path, bert)
    assert (tmp_path / "copy" / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs", "perf/README.md"])
def test_links_between_documents_lead_to_files(page: str) -> None:
    """A relative link or picture names a file of the checkout."""
    pages = sorted((ROOT / page).glob("*.md")) if (ROOT / page).is_dir() else [ROOT / page]
    links = [
        (path, link)
        for path in pages
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    ]

    assert pages
    assert links
    assert [f"{path}: {link}" for path, link in links if not (path.parent / link).exists()] == []
