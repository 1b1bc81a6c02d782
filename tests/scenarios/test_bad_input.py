"""Wrong arguments: each has an error of the right class and a clear message, before any transfer.

Errors of S3 (no bucket, wrong keys) are in `tests/stores/s3`, those of the decorator in
`tests/metaflow`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import hftransfer
from hftransfer import Client, HubOptions, RetryPolicy, TransferOptions
from hftransfer.errors import (
    AccessError,
    DestinationError,
    LocationError,
    NotFoundError,
    OptionsError,
    TransferError,
)
from hftransfer.testing import HubServer, RandomFile

FILES: Mapping[str, bytes | RandomFile] = {
    "config.json": b"{}",
    "model.safetensors": RandomFile(300_000),
}


@dataclass(frozen=True)
class Mistake:
    """A call of `copy` that must fail; ``{tmp}`` in a location is the folder of the test."""

    source: str
    destination: str
    error: type[TransferError]
    message: str


MISTAKES = {
    "unknown repo": Mistake(
        "hf://acme/none",
        "{tmp}/out",
        NotFoundError,
        r"there is no model 'acme/none' on http://127\.0\.0\.1:\d+, or it is private",
    ),
    "unknown dataset": Mistake(
        "hf://datasets/acme/tiny", "{tmp}/out", NotFoundError, "there is no dataset 'acme/tiny'"
    ),
    "unknown revision": Mistake(
        "hf://acme/tiny@v9", "{tmp}/out", NotFoundError, "'acme/tiny' .* has no revision 'v9'"
    ),
    "unknown commit": Mistake(
        f"hf://acme/tiny@{'0' * 40}", "{tmp}/out", NotFoundError, "has no revision '0000"
    ),
    "unknown file": Mistake(
        "hf://acme/tiny/nothing.json", "{tmp}/out", NotFoundError, "no such file or folder"
    ),
    "private repo without a token": Mistake(
        "hf://acme/private", "{tmp}/out", NotFoundError, "or it is private and the token given"
    ),
    "gated repo without a token": Mistake(
        "hf://acme/gated", "{tmp}/out", AccessError, "accept its conditions on its page.*HF_TOKEN"
    ),
    "gated file without a token": Mistake(
        "hf://acme/gated/model.safetensors", "{tmp}/out", AccessError, "accept its conditions"
    ),
    "destination is a file": Mistake(
        "hf://acme/tiny", "{tmp}/file", DestinationError, "cannot write to .*/file: .* is a file"
    ),
    "destination below a file": Mistake(
        "hf://acme/tiny", "{tmp}/file/deeper", DestinationError, "/file is a file"
    ),
    "destination on the Hub": Mistake(
        "hf://acme/tiny", "hf://acme/other", LocationError, "cannot be uploaded to the Hub"
    ),
    "no such local source": Mistake(
        "{tmp}/absent", "{tmp}/out", NotFoundError, "/absent: no such file or folder"
    ),
    "one slash": Mistake(
        "hf:/acme/tiny", "{tmp}/out", LocationError, "mistyped 'hf://acme/tiny'; write ./hf:"
    ),
    "no slash": Mistake("s3:bucket/key", "{tmp}/out", LocationError, "mistyped 's3://bucket/key'"),
    "three slashes": Mistake("hf:///acme/tiny", "{tmp}/out", LocationError, "names no repository"),
    "capital scheme": Mistake("HF://acme/tiny", "{tmp}/out", LocationError, "did you mean hf://"),
    "capital destination": Mistake(
        "hf://acme/tiny", "S3://bucket", LocationError, "did you mean s3://"
    ),
    "unknown scheme": Mistake("gs://bucket", "{tmp}/out", LocationError, "unknown scheme gs://"),
    "no repo": Mistake("hf://", "{tmp}/out", LocationError, r"the form is hf://\[datasets/"),
    "no bucket named": Mistake("hf://acme/tiny", "s3://", LocationError, "names no bucket"),
    "empty revision": Mistake("hf://acme/tiny@", "{tmp}/out", LocationError, "after '@' is empty"),
    "path with ..": Mistake(
        "hf://acme/tiny/../x", "{tmp}/out", LocationError, "not a relative path"
    ),
    "invalid repo id": Mistake(
        "hf://acme/ti--ny", "{tmp}/out", LocationError, "'acme/ti--ny' is not a repository id"
    ),
    "empty source": Mistake("", "{tmp}/out", LocationError, "'' is not a location"),
    "empty destination": Mistake("hf://acme/tiny", "", LocationError, "'' is not a location"),
}


@pytest.fixture
def hub_with_repos(hub: HubServer) -> HubServer:
    """A Hub with a public, a private and a gated repository."""
    hub.create_repo("acme/tiny", files=FILES)
    hub.create_repo("acme/private", private=True, files=FILES)
    hub.create_repo("acme/gated", gated=True, files=FILES)
    return hub


def options(hub: HubServer, **changed: Any) -> TransferOptions:
    return TransferOptions(
        hub=HubOptions(endpoint=hub.endpoint),
        retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0),
        **changed,
    )


def nothing_was_transferred(hub: HubServer, folder: Path) -> bool:
    """Return True if the CDN got no request, and `folder` still has only its one file."""
    left = sorted(path.name for path in folder.rglob("*") if path.is_file())
    return not [r for r in hub.requests if r.host == "cdn"] and left == ["file"]


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mistake_has_an_error_that_names_it(
    name: str, hub_with_repos: HubServer, tmp_path: Path
) -> None:
    """Class and message are right; nothing is retried or transferred."""
    mistake = MISTAKES[name]
    (tmp_path / "file").write_text("in the way")
    source, destination = (
        text.replace("{tmp}", str(tmp_path)) for text in (mistake.source, mistake.destination)
    )
    with Client(options(hub_with_repos)) as client, pytest.raises(TransferError) as caught:
        client.copy(source, destination)

    assert type(caught.value) is mistake.error
    assert caught.match(mistake.message)
    assert "\n" not in str(caught.value)
    assert nothing_was_transferred(hub_with_repos, tmp_path)
    sent = [(request.path, request.query) for request in hub_with_repos.requests]
    assert len(sent) == len(set(sent)), "no request is repeated"
    if mistake.error is LocationError:
        assert not sent


def test_a_read_only_destination_is_named(hub_with_repos: HubServer, tmp_path: Path) -> None:
    """A folder without write permission is an error before any transfer; so is one below it."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "file").write_text("kept")
    closed.chmod(0o555)
    # Root bypasses permissions, so the process drops its capabilities (capset(2), version 3).
    program = (
        "import ctypes, struct, sys\n"
        "from hftransfer.cli import main\n"
        "assert ctypes.CDLL(None).capset(struct.pack('=Ii', 0x20080522, 0), bytes(24)) == 0\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    for destination in (closed, closed / "new/deep"):
        finished = subprocess.run(
            [sys.executable, "-c", program, "cp", "hf://acme/tiny", os.fspath(destination)],
            env={**os.environ, **hub_with_repos.environ()},
            capture_output=True,
            text=True,
            check=False,
        )

        assert finished.returncode == 5, finished.stderr
        assert finished.stderr == (
            f"hftransfer: cannot write to {destination}: {closed} is not writable\n"
        )
    assert nothing_was_transferred(hub_with_repos, tmp_path)


def test_one_wrong_destination_stops_all(hub_with_repos: HubServer, tmp_path: Path) -> None:
    """All destinations are checked before any byte is written to one of them."""
    (tmp_path / "file").write_text("in the way")
    with (
        Client(options(hub_with_repos)) as client,
        pytest.raises(DestinationError, match="is a file"),
    ):
        client.copy("hf://acme/tiny", [tmp_path / "out", tmp_path / "file"])

    assert nothing_was_transferred(hub_with_repos, tmp_path)


def test_an_empty_list_of_destinations_is_an_error(hub_with_repos: HubServer) -> None:
    """The list must have at least one destination."""
    with (
        Client(options(hub_with_repos)) as client,
        pytest.raises(OptionsError, match="at least one destination"),
    ):
        client.copy("hf://acme/tiny", [])

    assert hub_with_repos.requests == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TransferOptions(chunk_size=1), "chunk_size must be between 64 KiB and 5 GiB"),
        (lambda: TransferOptions(connections=0), "connections must be between 1 and 1024"),
        (lambda: TransferOptions(memory_budget=1), r"memory_budget \(1\) must hold"),
        (lambda: HubOptions(endpoint="hub.example"), r"must be an http\(s\) URL"),
        (lambda: RetryPolicy(attempts=0), "attempts must be at least 1"),
        (
            lambda: TransferOptions.from_env({"HFTRANSFER_CONNECTIONS": "many"}),
            "HFTRANSFER_CONNECTIONS must be a whole number, not 'many'",
        ),
        (
            lambda: TransferOptions.from_env({"HFTRANSFER_CHUNK_SIZE": "big"}),
            "'big' is not a size",
        ),
    ],
)
def test_an_option_out_of_range_is_rejected(make: Callable[[], object], message: str) -> None:
    """The constructor raises, not the first use."""
    with pytest.raises(OptionsError, match=message):
        make()


def test_an_unknown_argument_is_a_type_error(hub_with_repos: HubServer, tmp_path: Path) -> None:
    """A misspelt keyword argument is named, as by any Python function."""
    download: Callable[..., object] = hftransfer.snapshot_download
    with pytest.raises(TypeError, match="allow_pattern"):
        download("acme/tiny", allow_pattern="*.json", endpoint=hub_with_repos.endpoint)
    copy: Callable[..., object] = hftransfer.copy
    with pytest.raises(TypeError, match="ignore"):
        copy("hf://acme/tiny", tmp_path, ignore="*.json")

    assert hub_with_repos.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo_id": "acme/tiny/x"}, "Repo id must be in the form"),
        ({"repo_id": "acme/tiny", "repo_type": "models"}, "Invalid repo type: models"),
    ],
)
def test_a_malformed_download_is_a_value_error(
    arguments: dict[str, str], message: str, hub_with_repos: HubServer
) -> None:
    """The message is that of huggingface_hub."""
    with pytest.raises(ValueError, match=message):
        hftransfer.snapshot_download(**arguments, endpoint=hub_with_repos.endpoint)  # type: ignore[arg-type]

    assert hub_with_repos.requests == []
