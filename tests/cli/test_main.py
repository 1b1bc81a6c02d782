"""Exit codes, usage errors and interruption of the command line."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from hftransfer.testing import Fault, HubServer, RandomFile, Stall
from support.cli import CHUNK, DEADLINE, cli_command, cli_environ, run_cli
from support.files import tree

BIG = RandomFile(40 * CHUNK, seed=3)


# --- exit codes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cp", "s4://bucket", "OUT"], 2, "unknown scheme s4://"),
        (["cp", "hf:/acme/tiny", "OUT"], 2, "mistyped 'hf://acme/tiny'"),
        (["cp", "hf://acme/tiny", "hf://acme/other"], 2, "cannot be uploaded"),
        (["cp", "--chunk-size", "1x", "hf://acme/tiny", "OUT"], 2, "is not a size"),
        (["cp", "--connections", "0", "hf://acme/tiny", "OUT"], 2, "connections must be"),
        (["cp", "--bandwidth", "0", "hf://acme/tiny", "OUT"], 2, "bandwidth must be positive"),
        (["cp", "--bandwidth", "fast", "hf://acme/tiny", "OUT"], 2, "'fast' is not a size"),
        (["cp", "--loops", "0", "hf://acme/tiny", "OUT"], 2, "loops must be"),
        (["cp", "hf://acme/none", "OUT"], 3, "there is no model 'acme/none'"),
        (["cp", "OUT/absent", "OUT/new"], 3, "no such file or folder"),
        (["ls", "hf://acme/tiny@v9"], 3, "has no revision 'v9'"),
        (["cp", "hf://acme/gated", "OUT"], 4, "accept its conditions"),
        (["cp", "hf://acme/tiny", "OUT/file"], 5, "is a file"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(
    hub: HubServer, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    """A failure is one line on standard error, nothing on standard output, and an exit code."""
    hub.create_repo("acme/tiny", files={"config.json": b"{}", "model.bin": b"12345"})
    hub.create_repo("acme/gated", gated=True, files={"model.bin": b"12345"})
    (tmp_path / "file").write_text("a file, not a folder")
    given = [argument.replace("OUT", str(tmp_path)) for argument in arguments]
    finished = run_cli(*given, hub=hub)

    assert finished.returncode == code, finished.stderr
    assert message in finished.stderr
    assert finished.stderr.startswith("hftransfer: ")
    assert finished.stderr.count("\n") == 1
    assert finished.stdout == ""
    assert list(tree(tmp_path)) == ["file"]


@pytest.mark.parametrize("arguments", [[], ["mv"], ["cp", "one"], ["ls", "--nonsense", "x"]])
def test_invalid_usage_prints_the_usage(arguments: list[str]) -> None:
    """Invalid usage ends with exit code 2."""
    finished = run_cli(*arguments)

    assert finished.returncode == 2
    assert finished.stderr.startswith("usage: hftransfer")


# --- interruption


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_copy_is_resumed(
    hub: HubServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A signal leaves only partial files; the next run reuses their chunks and fetches the rest."""
    hub.create_repo("acme/big", files={"model.bin": BIG})
    stalled = hub.add_fault(
        Fault(action=Stall(1000), host="cdn", ranged=True, after=20, times=None)
    )
    out = tmp_path / "out"
    with subprocess.Popen(
        cli_command("cp", "--connections", "2", "hf://acme/big", out),
        env=cli_environ(hub),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            # The first line of progress: a tenth of the file is verified and stored.
            first = process.stderr.readline()
            assert stalled.wait(DEADLINE)
            process.send_signal(number)
            process.wait(DEADLINE)
            stdout, stderr = process.stdout.read(), process.stderr.read()
        finally:
            process.kill()

    assert "%" in first, first
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr, stderr
    assert stdout == ""
    left = list(tree(out))
    assert left, "the partial file is kept"
    assert all(name.endswith(".incomplete") for name in left), left

    hub.clear_faults()
    hub.release()
    assert hub.wait_idle()
    hub.clear_requests()
    report = json.loads(run_cli("cp", "--json", "hf://acme/big", out, hub=hub).stdout)
    assert list(tree(out)) == ["model.bin"]
    assert (out / "model.bin").read_bytes() == b"".join(BIG.blocks())
    assert report["reused_bytes"] >= BIG.size / 10
    assert report["bytes"] + report["reused_bytes"] == BIG.size
    assert hub.wait_idle()  # a request's bytes are counted after they were sent
    assert sum(each.bytes_sent for each in hub.requests if each.host == "cdn") == report["bytes"]
