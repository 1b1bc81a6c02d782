"""Files of a repository whose names cannot be local ones do not block the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftransfer import Client, HubOptions, TransferOptions, snapshot_download
from hftransfer.errors import LocationError
from hftransfer.testing import HubServer
from support.files import tree

FILES = {"good": b"good", "a\\b": b"backslash", "C:x": b"drive"}


@pytest.fixture
def options(hub: HubServer) -> TransferOptions:
    hub.create_repo("acme/odd", files=FILES)
    return TransferOptions(hub=HubOptions(endpoint=hub.endpoint))


def test_odd_names_of_a_repository_are_listed_and_left_out(
    options: TransferOptions, tmp_path: Path
) -> None:
    with Client(options) as client:
        assert {entry.path for entry in client.list("hf://acme/odd")} == set(FILES)
        with pytest.raises(LocationError, match="2 names cannot be written"):
            client.copy("hf://acme/odd", tmp_path / "out")
        assert tree(tmp_path) == {}
        report = client.copy("hf://acme/odd", tmp_path / "out", on_bad_name="skip")

    assert (report.files, report.skipped_names) == (1, 2)
    assert tree(tmp_path / "out") == {"good": b"good"}


@pytest.mark.parametrize("folder", [None, "local"])
def test_a_snapshot_with_odd_names_is_refused_unless_they_are_excluded(
    options: TransferOptions, hub: HubServer, tmp_path: Path, folder: str | None
) -> None:
    """In the cache and in a folder: before any byte is moved."""
    local_dir = None if folder is None else tmp_path / folder
    with pytest.raises(LocationError, match="acme/odd: 2 names cannot be written: "):
        snapshot_download("acme/odd", endpoint=hub.endpoint, local_dir=local_dir)
    assert [name for name in tree(tmp_path) if not name.startswith("local/.cache/")] == []
    path = snapshot_download(
        "acme/odd",
        endpoint=hub.endpoint,
        local_dir=local_dir,
        ignore_patterns=["C:*", "*\\*"],
    )

    assert (Path(path) / "good").read_bytes() == b"good"
