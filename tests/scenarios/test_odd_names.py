"""Keys that cannot be names of local files: they are checked where they become such names."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from anyio import to_thread

from hftransfer import AsyncClient, S3Options, TransferOptions
from hftransfer.errors import LocationError, OptionsError
from support.cli import run_cli
from support.files import tree
from support.s3 import Bucket

# Of the servers that tests can start, moto alone stores every key.
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize("s3_server", ["moto"], indirect=True),
]

GOOD: Mapping[str, bytes] = {"good": b"good", "sub/also good": b"also good", "f": b"file"}
ODD: Mapping[str, bytes] = {
    "../up": b"1",
    "./dot": b"2",
    "/lead": b"3",
    "C:x": b"4",
    "a//b": b"5",
    "a\\b": b"6",
    "end/": b"7",
    "f/below": b"8",
    "long/" + "x" * 256: b"9",
    "sub/.x.0123456789abcdef.0.incomplete": b"10",
}


@pytest.fixture
def options(bucket: Bucket) -> TransferOptions:
    return TransferOptions(s3=S3Options(endpoint_url=bucket.server.endpoint))


@pytest_asyncio.fixture
async def client(bucket: Bucket, options: TransferOptions) -> AsyncIterator[AsyncClient]:
    """A client, with the objects of `GOOD` and `ODD` under ``p/``."""
    async with AsyncClient(options) as opened:
        opened.memory("all").files.update({**GOOD, **ODD})
        await opened.copy("memory://all", f"{bucket.url}/p")
        yield opened


async def contents(client: AsyncClient, location: str) -> Mapping[str, bytes]:
    """Return what is at `location`."""
    name = location.replace(":", "").replace("/", "-")
    await client.copy(location, f"memory://{name}")
    return client.memory(name).files


async def test_odd_keys_are_listed(client: AsyncClient, bucket: Bucket) -> None:
    listed = {entry.path: entry.size for entry in await client.list(f"{bucket.url}/p")}
    assert listed == {path: len(data) for path, data in {**GOOD, **ODD}.items()}


@pytest.mark.parametrize("sidecar", [False, True])
async def test_odd_keys_are_copied_within_s3(
    client: AsyncClient, bucket: Bucket, sidecar: bool
) -> None:
    """By the store, and through this machine, which a sidecar needs."""
    await client.copy(f"{bucket.url}/p", f"{bucket.url}/q", sidecar=sidecar)
    found = dict(await contents(client, f"{bucket.url}/q"))
    found.pop(".hftransfer", None)

    assert found == {**GOOD, **ODD}


async def test_odd_keys_are_verified(client: AsyncClient, bucket: Bucket) -> None:
    result = await client.verify(f"{bucket.url}/p")
    assert (result.ok, result.files) == (True, len(GOOD) + len(ODD))


async def test_odd_keys_fail_a_copy_to_a_folder_before_it_begins(
    client: AsyncClient, bucket: Bucket, tmp_path: Path
) -> None:
    """The error names the first keys, what is wrong with them, and what to do."""
    with pytest.raises(LocationError) as caught:
        await client.copy(f"{bucket.url}/p", tmp_path / "out")

    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'out'}: {len(ODD)} names cannot be written: ")
    assert "'../up' has a segment '.' or '..'; " in message
    assert "'C:x' begins with a drive letter" in message
    assert f", and {len(ODD) - 5} more. " in message
    assert "--on-bad-name skip" in message
    assert tree(tmp_path) == {}


async def test_odd_keys_that_are_excluded_do_not_matter(
    client: AsyncClient, bucket: Bucket, tmp_path: Path
) -> None:
    """Names are checked after the selection."""
    patterns = ["*up", "*dot", "/*", "C:*", "*//*", "*\\*", "end/", "f/*", "long/*", "*.incomplete"]
    report = await client.copy(f"{bucket.url}/p", tmp_path / "out", ignore_patterns=patterns)

    assert (report.files, report.skipped_names) == (3, 0)
    assert tree(tmp_path) == {f"out/{path}": data for path, data in GOOD.items()}


async def test_odd_keys_are_left_out_and_counted(
    client: AsyncClient, bucket: Bucket, tmp_path: Path
) -> None:
    """With on_bad_name="skip" nothing is written outside of the folder, or below a file."""
    report = await client.copy(f"{bucket.url}/p", tmp_path / "out", on_bad_name="skip")

    assert (report.files, report.skipped_names) == (len(GOOD), len(ODD))
    assert report.to_dict()["skipped_names"] == len(ODD)
    assert tree(tmp_path) == {f"out/{path}": data for path, data in GOOD.items()}


async def test_one_odd_key_is_copied_to_a_name_of_its_own(
    client: AsyncClient, bucket: Bucket, tmp_path: Path
) -> None:
    """A destination that names the file does not use the key's name."""
    await client.copy(f"{bucket.url}/p/C:x", tmp_path / "named")
    assert tree(tmp_path) == {"named": ODD["C:x"]}


async def test_a_name_is_left_out_of_all_destinations(
    client: AsyncClient, bucket: Bucket, tmp_path: Path
) -> None:
    """Several destinations get the same files."""
    destinations: list[str | Path] = [tmp_path / "out", f"{bucket.url}/q"]
    report = await client.copy(f"{bucket.url}/p", destinations, on_bad_name="skip")

    assert report.skipped_names == len(ODD)
    assert await contents(client, f"{bucket.url}/q") == GOOD


async def test_another_value_is_an_error(client: AsyncClient, bucket: Bucket) -> None:
    with pytest.raises(OptionsError, match="on_bad_name must be fail or skip, not 'ignore'"):
        await client.copy(f"{bucket.url}/p", "memory://x", on_bad_name="ignore")  # type: ignore[arg-type]


async def test_the_command_line_has_the_option(
    client: AsyncClient, bucket: Bucket, tmp_path: Path
) -> None:
    """The summary tells the number; without the option the exit code is that of a location."""

    def cp(*options: str) -> subprocess.CompletedProcess[str]:
        location, endpoint = f"{bucket.url}/p", bucket.server.endpoint
        return run_cli("cp", location, tmp_path / "out", "--s3-endpoint-url", endpoint, *options)

    failed = await to_thread.run_sync(cp)
    shown = await to_thread.run_sync(cp, "--on-bad-name", "skip")
    reported = await to_thread.run_sync(cp, "--on-bad-name", "skip", "--json")

    assert failed.returncode == 2
    assert f"{len(ODD)} names cannot be written" in failed.stderr
    assert f"{len(ODD)} bad names left out" in shown.stdout
    assert json.loads(reported.stdout)["skipped_names"] == len(ODD)
    assert tree(tmp_path) == {f"out/{path}": data for path, data in GOOD.items()}
