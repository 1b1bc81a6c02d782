"""No credential is written or printed, whatever happens: every path runs with marked secrets.

Each path runs as a process with asyncio's debug mode, logging at DEBUG, and every exception printed
with its causes. Its output, and every file below its home, its work folder and its destination, are
searched for the marks, as they are, percent-encoded and in base64. Only pickled options, which have
to carry credentials to another process, and the files with which the test began contain them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

import hftransfer
from hftransfer.testing import Fault, HubServer, RandomFile, Redirect, Status
from support.s3 import Bucket

MARK = "MARKEDsecret"
SECRETS = {
    name: f"{MARK}{name}"
    for name in ("token", "userpw", "proxypw", "signature", "session", "accesskey", "secretkey")
}
CUSTOMER_KEY = base64.b64encode(hashlib.sha256(b"marked").digest()).decode()

# Runs the code of a path; prints all that a log, a debugger or a traceback could show.
_PRELUDE = """
import asyncio, logging, pickle, sys, traceback, warnings
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
import hftransfer
from hftransfer import (AsyncClient, Client, HubOptions, RetryPolicy, S3Options, Timeouts,
    TransferOptions, hf_hub_download, snapshot_download)
from hftransfer import aio
from pathlib import Path

def report(error):
    traceback.print_exception(error)
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        print(repr(error), str(error), error.args, getattr(error, "__notes__", ""))
        print(repr(getattr(error, "response", None)))
        try:
            print(pickle.dumps(error))
        except Exception:
            pass
        error = error.__cause__ or error.__context__

def run(function):
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    try:
        result = loop.run_until_complete(function())
        print(repr(result), str(result))
        if hasattr(result, "to_dict"):
            print(result.to_dict())
    except Exception as error:
        report(error)
    finally:
        loop.close()

def call(function, *arguments, **options):
    try:
        print(repr(function(*arguments, **options)))
    except Exception as error:
        report(error)
"""

_COPY = """
options = TransferOptions(
    retry=RetryPolicy(attempts=2, wait_initial=0, wait_max=0),
    timeouts=Timeouts(connect=5, read=5), hub=HubOptions({hub}), s3=S3Options({s3}))
print(options, repr(options), options.hub, options.s3)

async def main():
    async with AsyncClient(options) as client:
        print(repr(client), vars(client))
        return await client.copy({source!r}, {destination!r}, sidecar=True)

run(main)
with Client(options) as client:
    print(repr(client))
    call(client.copy, {source!r}, {destination!r} + "-sync")
"""


def forms(secret: str) -> list[bytes]:
    """Return a secret as it may appear: plain, quoted, and in base64 at each offset."""
    found = {secret, quote(secret, safe="")}
    for before in ("", "a", "aa"):
        # What base64 of a longer text shares with this, whatever stands before it.
        encoded = base64.b64encode(f"{before}{secret}".encode()).decode()
        found.add(encoded[4:-4])
    return [each.encode() for each in found]


FORBIDDEN = [form for each in (MARK, CUSTOMER_KEY) for form in forms(each)]


def leaks(text: bytes) -> list[bytes]:
    """Return the surroundings of each secret in `text`."""
    return [
        text[max(0, at - 200) : at + 80]
        for form in FORBIDDEN
        if (at := text.find(form)) >= 0 or (at := text.lower().find(form.lower())) >= 0
    ]


def run_path(code: str, home: Path, **environ: str) -> bytes:
    """Run a path in a process of its own; return all that it printed."""
    variables = {
        **os.environ,
        **{name: str(home) for name in ("HOME", "HF_HOME", "XDG_STATE_HOME", "TMPDIR")},
        "PYTHONPATH": os.pathsep.join(
            [str(Path(hftransfer.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        ),
        "PYTHONDEVMODE": "1",
        **environ,
    }
    finished = subprocess.run(
        [sys.executable, "-c", _PRELUDE + code],
        env=variables,
        cwd=home,
        capture_output=True,
        check=False,
        timeout=50,
    )
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output[-3000:]
    return output


def assert_no_secret(output: bytes, *folders: Path) -> None:
    """Neither the output nor any file contains a secret, and something was printed."""
    assert len(output) > 500
    assert leaks(output) == []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                assert leaks(path.read_bytes()) == [], path
            assert MARK not in path.name


@pytest.fixture
def marked_hub(hub: HubServer) -> HubServer:
    """A Hub with a repository, to which the marked token is valid."""
    hub.add_token(SECRETS["token"])
    hub.create_repo(
        "acme/tiny",
        files={"config.json": b"{}", "model.safetensors": RandomFile(300_000)},
    )
    return hub


def hub_url(hub: HubServer) -> str:
    """Return the endpoint with a marked password in it."""
    return hub.endpoint.replace("//", f"//user:{SECRETS['userpw']}@")


FAULTS: Mapping[str, Fault | None] = {
    "success": None,
    "denied": Fault(action=Status(403, body=b"no"), host="cdn", times=None),
    "api denied": Fault(action=Status(401), path="/api/*", times=None),
    "server echoes the request": Fault(
        action=Status(
            400,
            {"Content-Type": "text/plain"},
            f"bad: Authorization: Bearer {SECRETS['token']} "
            f"?X-Amz-Signature={SECRETS['signature']} "
            f"http://u:{SECRETS['userpw']}@h/".encode(),
        ),
        times=None,
    ),
    "redirect with a signature": Fault(
        action=Redirect(f"http://127.0.0.1:9/x?X-Amz-Signature={SECRETS['signature']}"), times=None
    ),
    "redirect to no URL": Fault(
        action=Redirect(f"ftp://u:{SECRETS['userpw']}@h/x?sig={SECRETS['signature']}"), times=None
    ),
    "redirect without end": Fault(action=Redirect(f"?token={SECRETS['signature']}"), times=None),
    "a URL that aiohttp sends": Fault(
        action=Redirect(
            f"http://u:{SECRETS['userpw']}@127.0.0.1:9/{{x}}?sig={SECRETS['signature']}"
        ),
        host="hub",
        path="*/resolve/*",
        times=None,
    ),
    "a server failure": Fault(action=Status(500), times=None),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("endpoint", ["plain", "with a user"])
def test_copies_from_the_hub(
    marked_hub: HubServer, endpoint: str, fault: Fault | None, tmp_path: Path
) -> None:
    """Synchronous and asynchronous; the token in the options, or a user in the endpoint."""
    if fault is not None:
        marked_hub.add_fault(fault)
    url = marked_hub.endpoint if endpoint == "plain" else hub_url(marked_hub)
    token = SECRETS["token"] if endpoint == "plain" else None
    code = _COPY.format(
        hub=f"endpoint={url!r}, token={token!r}, headers={{'X-Key': {SECRETS['token']!r}}}",
        s3="",
        source="hf://acme/tiny",
        destination=str(tmp_path / "out"),
    )
    output = run_path(code, tmp_path)

    assert_no_secret(output, tmp_path)
    assert (tmp_path / "out" / "model.safetensors").exists() == (fault is None)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["success", "denied", "server echoes the request"])
def test_the_drop_in_and_the_command_line(
    marked_hub: HubServer, fault: str, tmp_path: Path
) -> None:
    """huggingface_hub's own exceptions are raised there, with its own text."""
    if (planned := FAULTS[fault]) is not None:
        marked_hub.add_fault(planned)
    environ = {"HF_ENDPOINT": hub_url(marked_hub), "HF_TOKEN": SECRETS["token"]}
    code = f"""
call(snapshot_download, "acme/tiny", token={SECRETS["token"]!r})
call(hf_hub_download, "acme/tiny", "config.json", local_dir="local")
from hftransfer.cli import main
for arguments in (["cp", "hf://acme/tiny", "cli"], ["ls", "hf://acme/tiny"],
                  ["cp", "https://u:{SECRETS["userpw"]}@h/x?X-Amz-Signature=s", "x"],
                  ["cp", "s3://k:{SECRETS["secretkey"]}@bucket/x", "x"],
                  ["cp", "--endpoint", "user:{SECRETS["userpw"]}@h", "hf://a/b", "x"]):
    print(main(arguments))
"""
    assert_no_secret(run_path(code, tmp_path, **environ), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "proxy",
    [
        f"http://user:{SECRETS['proxypw']}@127.0.0.1:9",
        f"user:{SECRETS['proxypw']}@127.0.0.1:9",
        f"https://user:{SECRETS['proxypw']}@127.0.0.1:9",
        f"socks5://user:{SECRETS['proxypw']}@127.0.0.1:9",
        f"http://user:{SECRETS['proxypw']}@127.0.0.1:port",
    ],
    ids=["http", "no scheme", "https", "socks", "malformed"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies(proxy: str, scheme: str, tmp_path: Path) -> None:
    """A proxy that nobody runs, or that cannot be used."""
    code = _COPY.format(
        hub=f"endpoint='{scheme}://hub.invalid', token={SECRETS['token']!r}",
        s3="",
        source="hf://acme/tiny",
        destination=str(tmp_path / "out"),
    )
    assert_no_secret(run_path(code, tmp_path, ALL_PROXY=proxy, NO_PROXY=""), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["wrong keys", "a user in the endpoint", "nobody listens", "SSE-C"]
)
@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
def test_copies_to_s3(bucket: Bucket, case: str, tmp_path: Path) -> None:
    """Keys and tokens in options, in the URL of the endpoint and in headers."""
    (tmp_path / "data").write_bytes(b"x" * 100_000)
    keys = (
        f"access_key_id={SECRETS['accesskey']!r}, secret_access_key={SECRETS['secretkey']!r}, "
        f"session_token={SECRETS['session']!r}"
    )
    endpoint = bucket.server.endpoint
    if case == "a user in the endpoint":
        endpoint = endpoint.replace("//", f"//{SECRETS['accesskey']}:{SECRETS['secretkey']}@")
        keys = ""
    if case == "nobody listens":
        endpoint = f"http://u:{SECRETS['userpw']}@127.0.0.1:9"
    if case == "SSE-C":
        keys += f", customer_key={CUSTOMER_KEY!r}"
    code = _COPY.format(
        hub="",
        s3=f"endpoint_url={endpoint!r}, {keys}",
        source=str(tmp_path / "data"),
        destination=f"s3://{bucket.name}/x",
    )
    code += f"""
async def back():
    async with AsyncClient(options) as client:
        return await client.copy("s3://{bucket.name}/x", {str(tmp_path / "back")!r})

run(back)
"""
    assert_no_secret(run_path(code, tmp_path), tmp_path)


def test_a_leak_would_be_found(tmp_path: Path) -> None:
    """Plain, quoted, in lower case and in base64, in the output and in a file."""
    secret = SECRETS["token"]
    basic = base64.b64encode(f"user:{secret}".encode())
    for text in (secret.encode(), secret.lower().encode(), basic):
        with pytest.raises(AssertionError):
            assert_no_secret(b"x" * 500 + text)
    (tmp_path / "state").write_bytes(basic)
    with pytest.raises(AssertionError):
        assert_no_secret(b"x" * 501, tmp_path)
