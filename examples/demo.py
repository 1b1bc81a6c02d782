"""Both example flows on this machine, with a cold and a warm datastore, without a network.

    python examples/demo.py        (or: tox -e demo)

Starts the Hub server of `hftransfer.testing` with a repository shaped like
bert-base-uncased, runs both flows twice on Metaflow's local datastore, and prints where
each model was loaded, its files, and the duration of each load. All files are in one
temporary folder, which is removed at the end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hftransfer.testing import HubServer, RandomFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLES = Path(__file__).resolve().parent
REPO = "bert-base-uncased"
MIB = 1 << 20
STOP_SECONDS = 5.0

WEIGHTS = {
    "coreml/fill-mask/float32_model.mlpackage/Data/com.apple.CoreML/weights/weight.bin": 24,
    "flax_model.msgpack": 40,
    "model.onnx": 40,
    "model.safetensors": 40,
    "pytorch_model.bin": 40,
    "rust_model.ot": 40,
    "tf_model.h5": 40,
}
CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "hidden_size": 768,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 30522,
}
LINE = re.compile(r"^\S+ \S+ \[\d+/(?P<step>\w+)/\d+ \(pid \d+\)\] (?P<text>.*)$")
TIMED = re.compile(
    r"^\[@huggingface_hub\] (?P<how>Loaded|Downloaded|Found) .*? in (?P<seconds>[\d.]+) s: "
)
TIMED_MODEL = re.compile(r"^\[@model\] (?P<how>Loaded) artifact .* in (?P<seconds>[\d.]+) seconds")
PLACE = re.compile(rf"^(?:{REPO} is |Its files: )")


@dataclass(frozen=True)
class Load:
    """One load, as the flow reported it."""

    flow: str
    step: str
    where: str
    seconds: float


@dataclass
class FlowOutput:
    """The output of one run of a flow."""

    flow: str
    loads: list[Load] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> str | None:
        """Record `line`; return a short form if it is about a load, else None."""
        self.lines.append(line)
        match = LINE.match(line)
        if match is None:
            return None
        step, text = match["step"], match["text"]
        timed = TIMED.match(text) or TIMED_MODEL.match(text)
        if timed is not None:
            where = "huggingface" if timed["how"] == "Downloaded" else "datastore"
            self.loads.append(Load(self.flow, step, where, float(timed["seconds"])))
        return f"  {step:10} {text}" if timed is not None or PLACE.match(text) else None


class FlowFailedError(Exception):
    """A flow failed, or did not report its loads."""


def repository() -> dict[str, bytes | RandomFile]:
    """Return the files of a repository shaped like the real one: 13 files and a folder."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map("token{}".format, range(5000))]
    tokenizer = {"version": "1.0", "model": {"vocab": {t: i for i, t in enumerate(vocabulary)}}}
    texts = {
        ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n",
        "LICENSE": "Apache License, Version 2.0\n",
        "README.md": "# A repository shaped like bert-base-uncased, with random weights\n",
        "config.json": json.dumps(CONFIG, indent=2),
        "tokenizer.json": json.dumps(tokenizer),
        "tokenizer_config.json": json.dumps({"do_lower_case": True, "model_max_length": 512}),
        "vocab.txt": "\n".join(vocabulary),
    }
    files: dict[str, bytes | RandomFile] = {name: text.encode() for name, text in texts.items()}
    for seed, (name, mebibytes) in enumerate(WEIGHTS.items()):
        files[name] = RandomFile(mebibytes * MIB, seed=seed)
    return files


def environment(work: Path, hub: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the flows: the Hub's, and those of a Metaflow inside `work`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "METAFLOW_"))
    }
    metaflow = {
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(work),
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
        "METAFLOW_HOME": str(work / "config"),
        "METAFLOW_USER": "demo",
    }
    return {**kept, **hub, **metaflow, "TMPDIR": str(work), "PYTHONUNBUFFERED": "1"}


@contextmanager
def process(
    command: list[str], work: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run `command`; at the end of the block all processes that it started are killed."""
    child = subprocess.Popen(
        command,
        cwd=work,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, which includes Metaflow's tasks
    )
    with child:
        try:
            yield child
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGINT)
                try:
                    child.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    pass
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all have ended


def run_flow(script: str, work: Path, env: Mapping[str, str]) -> FlowOutput:
    """Run one example flow, and print the lines about its loads.

    Raises:
        FlowFailedError: if it failed, or reported no load.
    """
    output = FlowOutput(Path(script).stem)
    command = [sys.executable, str(EXAMPLES / script), "run"]
    with process(command, work, env) as child:
        assert child.stdout is not None
        for line in child.stdout:
            shown = output.add(line.rstrip("\n"))
            if shown is not None:
                print(shown, flush=True)
        code = child.wait()
    if code != 0 or not output.loads:
        print("\n".join(output.lines), file=sys.stderr)
        raise FlowFailedError(f"{script} ended with exit code {code}; its output is above")
    return output


def table(cold: list[Load], warm: list[Load]) -> str:
    """Return a table of the cold and the warm durations."""
    rows = [("flow", "step", "cold", "", "warm", "")]
    for first, second in zip(cold, warm, strict=True):
        rows.append(
            (
                first.flow,
                first.step,
                f"{first.seconds:.2f} s",
                f"from {first.where}",
                f"{second.seconds:.2f} s",
                f"from {second.where}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def demo(work: Path) -> None:
    """Run both flows twice, and print their loads."""
    runs: list[list[Load]] = []
    with HubServer() as hub:
        print(f"Making {REPO} with {sum(WEIGHTS.values())} MiB of weights ...", flush=True)
        hub.create_repo(REPO).commit(repository(), revision="main")
        env = environment(work, hub.environ())
        for title in ("cold: the datastore is empty", "warm: the datastore has the models"):
            loads: list[Load] = []
            for script in ("static_load_flow.py", "dynamic_load_flow.py"):
                print(f"\n{script}, {title}", flush=True)
                loads += run_flow(script, work, env).loads
            runs.append(loads)
    print(f"\n{table(*runs)}")


def stop(signum: int, _frame: object) -> NoReturn:
    """Exit on SIGTERM, through every ``finally``."""
    raise SystemExit(128 + signum)


def main() -> int:
    """Run the demo; return the exit code."""
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="hftransfer-demo-") as folder:
        try:
            demo(Path(folder))
        except FlowFailedError as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("demo: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
