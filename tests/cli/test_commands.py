"""`cp`, `ls` and `verify` as processes: what they do and what they print."""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path

import pytest
import trustme

from hftransfer.testing import HubServer, RandomFile
from support.cli import CHUNK, run_cli
from support.files import flip_bit, make_tree, tree
from support.hub import cdn_bytes

KIB = 1024
BIG = RandomFile(40 * CHUNK, seed=3)


# --- cp


def test_cp_copies_a_repository_to_a_folder(hub: HubServer, tmp_path: Path) -> None:
    """All files are copied, exit code 0, and one line of summary on standard output."""
    hub.create_repo("acme/tiny", files={"config.json": b"{}", "sub/model.bin": BIG})
    finished = run_cli("cp", "hf://acme/tiny", tmp_path / "out", hub=hub)

    assert finished.returncode == 0, finished.stderr
    assert list(tree(tmp_path / "out")) == ["config.json", "sub/model.bin"]
    assert (tmp_path / "out/sub/model.bin").read_bytes() == BIG.read_bytes()
    assert finished.stdout.startswith("2 files, 2.5 MiB, ")
    assert finished.stdout.count("\n") == 1


def test_cp_reads_the_source_once_for_two_destinations(hub: HubServer, tmp_path: Path) -> None:
    """Both folders get all files; the CDN sends each byte once."""
    hub.create_repo("acme/big", files={"model.bin": BIG})
    finished = run_cli("cp", "hf://acme/big", tmp_path / "one", tmp_path / "two", hub=hub)

    assert finished.returncode == 0, finished.stderr
    for folder in ("one", "two"):
        assert (tmp_path / folder / "model.bin").read_bytes() == BIG.read_bytes()
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
    """The files of a folder are copied into the destination; a file to its name or into it."""
    for name in ("a.txt", "sub/b.txt"):
        path = tmp_path / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    finished = run_cli("cp", tmp_path / source, f"{tmp_path}/{destination}")

    assert finished.returncode == 0, finished.stderr
    assert [n for n in tree(tmp_path) if not n.startswith("from/")] == expected


def test_cp_copies_what_the_patterns_select(hub: HubServer, tmp_path: Path) -> None:
    """`--include` and `--exclude` may be repeated."""
    files = dict.fromkeys(("a.json", "b.json", "c.txt", "d.bin"), b"{}")
    hub.create_repo("acme/tiny", files=files)
    patterns = ["--include", "*.json", "--include", "*.txt", "--exclude", "b*"]
    finished = run_cli("cp", "hf://acme/tiny", tmp_path / "out", *patterns, hub=hub)

    assert finished.returncode == 0, finished.stderr
    assert list(tree(tmp_path / "out")) == ["a.json", "c.txt"]


def test_cp_prints_json(hub: HubServer, tmp_path: Path) -> None:
    """With `--json` standard output is one JSON object, and standard error is empty."""
    repo = hub.create_repo("acme/big", files={"model.bin": BIG})
    finished = run_cli("cp", "--json", "hf://acme/big", tmp_path / "out", hub=hub)
    report = json.loads(finished.stdout)

    assert finished.stderr == ""
    assert report["source"] == "hf://acme/big"
    assert report["destinations"] == [str(tmp_path / "out")]
    assert report["commit"] == repo.head
    assert (report["files"], report["bytes"], report["verified"]) == (1, BIG.size, 1)


# --- ls


def test_ls_prints_sizes_and_paths(hub: HubServer) -> None:
    """One line per file; with `--json` a list that has the digests too. No content is read."""
    repo = hub.create_repo("acme/tiny", files={"config.json": b"{}", "sub/model.bin": b"12345"})
    plain = run_cli("ls", "hf://acme/tiny", hub=hub)
    rows = json.loads(run_cli("ls", "--json", "hf://acme/tiny", hub=hub).stdout)

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


def test_ssl_cert_file_is_trusted_for_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about an unknown certificate names SSL_CERT_FILE, and setting it solves it."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with HubServer(ssl_context=context) as hub:
        hub.create_repo("acme/tiny", files={"config.json": b"{}"})
        refused = run_cli("ls", "hf://acme/tiny", hub=hub)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        listed = run_cli("ls", "hf://acme/tiny", hub=hub)

    assert refused.returncode == 1
    assert "SSL_CERT_FILE" in refused.stderr
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.split() == ["2", "config.json"]


# --- verify


def test_verify_prints_what_differs(tmp_path: Path) -> None:
    """Exit code 0 or 6, one line per file that differs and a summary; with `--json` an object."""
    make_tree(tmp_path / "in")
    assert run_cli("cp", "--sidecar", tmp_path / "in", tmp_path / "out").returncode == 0
    intact = run_cli("verify", tmp_path / "out")
    flip_bit(tmp_path / "out" / "a.bin")
    (tmp_path / "out" / "empty").unlink()
    damaged = run_cli("verify", tmp_path / "out")
    as_json = run_cli("verify", "--json", tmp_path / "out")
    given = run_cli("verify", "--manifest", tmp_path / "out" / ".hftransfer", tmp_path / "in")

    assert intact.returncode == 0, intact.stderr
    assert intact.stdout == (
        "3 files correct, 300.0 KiB read; compared with the .hftransfer manifest\n"
    )
    assert damaged.returncode == 6
    lines = damaged.stdout.splitlines()
    assert re.match(r"wrong    a\.bin: (.* )?bytes 0-65535 ", lines[0])
    assert lines[1] == "missing  empty"
    assert lines[2].startswith("1 file correct, 1 wrong, 1 missing, ")  # wrong bytes are reread
    assert lines[2].endswith(" read; compared with the .hftransfer manifest")
    assert as_json.returncode == 6
    assert as_json.stderr == ""
    result = json.loads(as_json.stdout)
    assert (result["ok"], list(result["wrong"]), result["missing"]) == (False, ["a.bin"], ["empty"])
    assert given.returncode == 0, given.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["DIR"], 1, "no recorded digests"),
        (["DIR/none"], 3, "no such file"),
        (["--manifest", "DIR/none", "DIR"], 3, "cannot read the manifest"),
        (["--manifest", "DIR/a.bin", "DIR"], 6, "is not a manifest"),
        (["--manifest", "x", "--against", "y", "DIR"], 2, "not allowed with"),
    ],
)
def test_a_verify_that_cannot_compare_fails(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    """Each reason has its exit code; none is success."""
    folder = make_tree(tmp_path / "in")
    finished = run_cli("verify", *[each.replace("DIR", str(folder)) for each in arguments])

    assert finished.returncode == code, finished.stderr
    assert message in finished.stderr
