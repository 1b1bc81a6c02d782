"""Flows run as users run them: in processes of their own, with datastores of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftransfer.testing import RandomFile

__all__ = ("FILES", "PRIVATE_REPO", "REPO", "TOKEN", "FlowRun", "FlowRunner", "S3Datastore")

TESTS = Path(__file__).resolve().parents[1]
REPO = "bert-base-uncased"
PRIVATE_REPO = "acme/private"
TOKEN = "hf_SECRETsecretSECRETsecret"
FILES: dict[str, bytes | RandomFile] = {
    ".gitattributes": b"*.bin filter=lfs\n",
    "README.md": b"# main\n",
    "config.json": b'{"revision": "main"}',
    "coreml/weights/weight.bin": RandomFile(300_000, seed=1),
    "model.safetensors": RandomFile(3_000_000, seed=2),
    "tokenizer.json": b"{}",
    "vocab.txt": b"a\nb\n",
}
"""The files of `REPO` on the branch main."""


@dataclass(frozen=True)
class FlowRun:
    """A finished run."""

    code: int
    """Exit code."""
    output: str
    """What it printed, stdout and stderr."""
    work: Path
    """The folder in which it ran."""

    @property
    def probe(self) -> dict[str, Any]:
        """The JSON document that the flow printed after ``PROBE``."""
        assert self.code == 0, self.output
        _, _, found = self.output.partition("PROBE ")
        document: dict[str, Any] = json.loads(found.splitlines()[0])
        return document


class FlowRunner:
    """Runs flows in a folder of their own, which also has the local datastore.

    Args:
        work: the folder.
        environ: variables in addition to those of this process.
    """

    examples = TESTS.parent / "examples"

    def __init__(self, work: Path, environ: Mapping[str, str]) -> None:
        self.work = work
        self.temporary = work / "tmp"
        self.temporary.mkdir()
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "HF_", "HFTRANSFER_", "METAFLOW_"))
        }
        self.environ = {
            **inherited,
            "HF_HOME": str(work / "hf-home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HOME": str(work),
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(work),
            "METAFLOW_DEFAULT_DATASTORE": "local",
            "METAFLOW_DEFAULT_METADATA": "local",
            "METAFLOW_HOME": str(work / "metaflow"),
            "METAFLOW_USER": "tester",
            "TMPDIR": str(self.temporary),
            **environ,
        }

    def run(self, script: Path | str, *arguments: str, **options: Any) -> FlowRun:
        """Run a flow to its end; see `start`."""
        with self.start(script, *arguments, **options) as process:
            output, _ = process.communicate()
        return self.finished(process.returncode, output)

    def finished(self, code: int, output: str) -> FlowRun:
        """Return the run that ended with `code` and printed `output`."""
        return FlowRun(code, output, self.work)

    @contextmanager
    def start(
        self,
        script: Path | str,
        *arguments: str,
        probe: Mapping[str, Any] | None = None,
        upstream: bool = False,
        environ: Mapping[str, str] | None = None,
        python: str | None = None,
        command: Sequence[str] = ("run",),
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a flow; its processes are killed at the end of the block.

        Args:
            script: a file, or the name of one in ``tests/metaflow/flows``.
            *arguments: of the command.
            probe: what ``probe_flow.py`` does.
            upstream: use metaflow-checkpoint's own ``@huggingface_hub``.
            environ: further variables.
            python: another interpreter, which gets no PYTHONPATH. Default: this one.
            command: of the flow.
        """
        variables = {**self.environ, "PROBE": json.dumps(probe or {}), **(environ or {})}
        if python is not None:
            variables.pop("PYTHONPATH", None)
        if upstream:
            paths = [variables.get("PYTHONPATH", ""), str(TESTS / "metaflow" / "upstream_ext")]
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        flows = TESTS / "metaflow" / "flows"
        with subprocess.Popen(
            [python or sys.executable, str(flows / script), *command, *arguments],
            cwd=self.work,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # all of them have ended

    def stored(self) -> dict[str, bytes]:
        """Return all files below the local datastore's prefix for repositories."""
        root = self.work / ".metaflow" / "mf.huggingface_hub"
        return {
            str(file.relative_to(root)): file.read_bytes()
            for file in root.rglob("*")
            if file.is_file()
        }


@dataclass(frozen=True)
class S3Datastore:
    """A bucket that is Metaflow's datastore."""

    client: Any
    """A botocore client."""
    bucket: str

    def below(self, prefix: str = "root/mf.huggingface_hub/") -> list[str]:
        """Return the keys below `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]
