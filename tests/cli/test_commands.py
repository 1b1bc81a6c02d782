"""The command line as a process: what it prints, how it exits, how it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from hftransfer.testing import Fault, HubServer, RandomFile, Stall, Status

KIB = 1024
CHUNK = 64 * KIB
BIG = RandomFile(40 * CHUNK, seed=3)
# Nothing here waits this long unless it hangs: then the test fails instead of the whole run.
PATIENCE = 30


def environ(hub: HubServer | None = None) -> dict[str, str]:
    return {**os.environ, "HFTRANSFER_CHUNK_SIZE": str(CHUNK), **(hub.environ() if hub else {})}


def run(*arguments: str | Path, hub: HubServer | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; a traceback on its stderr is never right."""
    finished = subprocess.run(
        [sys.executable, "-m", "hftransfer", *map(str, arguments)],
        env=environ(hub),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert "Traceback" not in finished.stderr, finished.stderr
    return finished


def content(file: RandomFile) -> bytes:
    return b"".join(file.blocks())


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def cdn_bytes(hub: HubServer) -> int:
    """Bytes of bodies that the CDN has sent."""
    assert hub.wait_idle()  # it counts bytes after they have gone
    return sum(request.bytes_sent for request in hub.requests if request.host == "cdn")


# --- cp


def test_cp_brings_a_repository_into_a_folder(hub: HubServer, tmp_path: Path) -> None:
    """All files arrive, exit code 0; the summary is one line on stdout, progress on stderr."""
    hub.create_repo("acme/tiny", files={"config.json": b"{}", "sub/model.bin": BIG})
    finished = run("cp", "hf://acme/tiny", tmp_path / "out", hub=hub)

    assert finished.returncode == 0, finished.stderr
    assert names(tmp_path / "out") == ["config.json", "sub/model.bin"]
    assert (tmp_path / "out/sub/model.bin").read_bytes() == content(BIG)
    assert finished.stdout.startswith("2 files, 2.5 MiB, ")
    assert finished.stdout.count("\n") == 1


def test_progress_without_a_terminal_is_plain_lines(hub: HubServer, tmp_path: Path) -> None:
    """In a log each step is a line of its own, without control characters, up to 100 %."""
    hub.create_repo("acme/big", files={"model.bin": BIG})
    lines = run("cp", "hf://acme/big", tmp_path / "out", hub=hub).stderr.splitlines(keepends=True)

    assert len(lines) >= 5
    assert all(line.endswith("\n") for line in lines)
    assert not any("\r" in line or "\x1b" in line for line in lines)
    assert lines[-1] == "100 %  2.5 MiB of 2.5 MiB\n"
    percents = [int(line.split("%")[0]) for line in lines]
    assert percents == sorted(percents)


def test_retries_are_told(hub: HubServer, tmp_path: Path) -> None:
    """A request that is tried again leaves a line with the reason, and the run still succeeds."""
    hub.create_repo("acme/big", files={"model.bin": BIG})
    hub.add_fault(Fault(action=Status(503), host="cdn", ranged=True))
    finished = run("cp", "hf://acme/big", tmp_path / "out", hub=hub)

    assert finished.returncode == 0
    assert "model.bin: " in finished.stderr
    assert "answered 503; again in" in finished.stderr
    assert "Signature" not in finished.stderr
    assert finished.stdout.rstrip().endswith("1 retries")


def test_cp_feeds_several_destinations_in_one_pass(hub: HubServer, tmp_path: Path) -> None:
    """Two folders get everything while the CDN sends it once."""
    hub.create_repo("acme/big", files={"model.bin": BIG})
    finished = run("cp", "hf://acme/big", tmp_path / "one", tmp_path / "two", hub=hub)

    assert finished.returncode == 0, finished.stderr
    for folder in ("one", "two"):
        assert (tmp_path / folder / "model.bin").read_bytes() == content(BIG)
    assert cdn_bytes(hub) == BIG.size


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("from", "to", ["to/a.txt", "to/sub/b.txt"]),
        ("from/a.txt", "to.txt", ["to.txt"]),
        ("from/a.txt", "to/", ["to/a.txt"]),
        ("from/sub", "new/deep", ["new/deep/b.txt"]),
    ],
)
def test_cp_copies_local_files(
    tmp_path: Path, source: str, destination: str, expected: list[str]
) -> None:
    """A folder's content goes into the destination; a file gets its name or goes into a folder."""
    for name in ("a.txt", "sub/b.txt"):
        path = tmp_path / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    finished = run("cp", tmp_path / source, f"{tmp_path}/{destination}")

    assert finished.returncode == 0, finished.stderr
    assert [n for n in names(tmp_path) if not n.startswith("from/")] == expected


def test_patterns_choose_files(hub: HubServer, tmp_path: Path) -> None:
    """`--include` and `--exclude` may be repeated."""
    files = dict.fromkeys(("a.json", "b.json", "c.txt", "d.bin"), b"{}")
    hub.create_repo("acme/tiny", files=files)
    patterns = ["--include", "*.json", "--include", "*.txt", "--exclude", "b*"]
    finished = run("cp", "hf://acme/tiny", tmp_path / "out", *patterns, hub=hub)

    assert finished.returncode == 0, finished.stderr
    assert names(tmp_path / "out") == ["a.json", "c.txt"]


def test_cp_prints_json(hub: HubServer, tmp_path: Path) -> None:
    """With `--json` stdout is one JSON object and stderr is empty."""
    repo = hub.create_repo("acme/big", files={"model.bin": BIG})
    finished = run("cp", "--json", "hf://acme/big", tmp_path / "out", hub=hub)
    report = json.loads(finished.stdout)

    assert finished.stderr == ""
    assert report["source"] == "hf://acme/big"
    assert report["destinations"] == [str(tmp_path / "out")]
    assert report["commit"] == repo.head
    assert (report["files"], report["bytes"], report["verified"]) == (1, BIG.size, 1)


# --- ls


def test_ls_lists_sizes_and_paths(hub: HubServer) -> None:
    """One line per file, and as JSON with the digests."""
    repo = hub.create_repo("acme/tiny", files={"config.json": b"{}", "sub/model.bin": b"12345"})
    plain = run("ls", "hf://acme/tiny", hub=hub)
    rows = json.loads(run("ls", "--json", "hf://acme/tiny", hub=hub).stdout)

    assert [line.split() for line in plain.stdout.splitlines()] == [
        ["2", "config.json"],
        ["5", "sub/model.bin"],
    ]
    assert rows == [
        {
            "path": "config.json",
            "size": 2,
            "digest": f"git-sha1:{repo.blob('config.json').oid}",
            "etag": repo.blob("config.json").oid,
        },
        {
            "path": "sub/model.bin",
            "size": 5,
            "digest": f"sha256:{repo.blob('sub/model.bin').sha256}",
            "etag": rows[1]["etag"],
        },
    ]
    assert not [request for request in hub.requests if request.host == "cdn"]


def test_ssl_cert_file_makes_a_private_hub_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that the message about an unknown certificate names is the one that helps."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with HubServer(ssl_context=context) as hub:
        hub.create_repo("acme/tiny", files={"config.json": b"{}"})
        refused = run("ls", "hf://acme/tiny", hub=hub)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        listed = run("ls", "hf://acme/tiny", hub=hub)

    assert refused.returncode == 1
    assert "SSL_CERT_FILE" in refused.stderr
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.split() == ["2", "config.json"]


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
        (["cp", "OUT/absent", "OUT/there"], 3, "no such file or folder"),
        (["ls", "hf://acme/tiny@v9"], 3, "has no revision 'v9'"),
        (["cp", "hf://acme/gated", "OUT"], 4, "accept its conditions"),
        (["cp", "hf://acme/tiny", "OUT/file"], 5, "is a file"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(
    hub: HubServer, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    """A failure is one line on stderr that says what is wrong, and a code for scripts."""
    hub.create_repo("acme/tiny", files={"config.json": b"{}", "model.bin": b"12345"})
    hub.create_repo("acme/gated", gated=True, files={"model.bin": b"12345"})
    (tmp_path / "file").write_text("in the way")
    given = [argument.replace("OUT", str(tmp_path)) for argument in arguments]
    finished = run(*given, hub=hub)

    assert finished.returncode == code, finished.stderr
    assert message in finished.stderr
    assert finished.stderr.startswith("hftransfer: ")
    assert finished.stderr.count("\n") == 1
    assert finished.stdout == ""
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("arguments", [[], ["mv"], ["cp", "one"], ["ls", "--nonsense", "x"]])
def test_wrong_usage_prints_the_usage(arguments: list[str]) -> None:
    """What argparse refuses ends with 2, too."""
    finished = run(*arguments)

    assert finished.returncode == 2
    assert finished.stderr.startswith("usage: hftransfer")


# --- interruption


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_copy_is_resumed(
    hub: HubServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A signal in the middle leaves no file under its name; the next run goes on from there."""
    hub.create_repo("acme/big", files={"model.bin": BIG})
    stalled = hub.add_fault(
        Fault(action=Stall(1000), host="cdn", ranged=True, after=20, times=None)
    )
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-m", "hftransfer", "cp", "--connections", "2", "hf://acme/big", out],
        env=environ(hub),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            # The first line of progress tells of a tenth of the file, verified and stored.
            first = process.stderr.readline()
            assert stalled.wait(PATIENCE)
            process.send_signal(number)
            process.wait(PATIENCE)
            stdout, stderr = process.stdout.read(), process.stderr.read()
        finally:
            process.kill()

    assert "%" in first, first
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr, stderr
    assert stdout == ""
    assert all(name.endswith(".incomplete") for name in names(out)), names(out)
    assert names(out), "what arrived is kept"

    hub.clear_faults()
    hub.release()
    assert hub.wait_idle()
    hub.clear_requests()
    report = json.loads(run("cp", "--json", "hf://acme/big", out, hub=hub).stdout)
    assert names(out) == ["model.bin"]
    assert (out / "model.bin").read_bytes() == content(BIG)
    assert report["reused_bytes"] >= BIG.size / 10
    assert report["bytes"] + report["reused_bytes"] == BIG.size
    assert cdn_bytes(hub) == report["bytes"]
