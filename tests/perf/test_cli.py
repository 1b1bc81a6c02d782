"""Whole runs of the harness, small: real servers, real tools, real processes."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import pytest

from perf.cli import main
from perf.fixtures.hub import HubWorld, hub
from perf.fixtures.nginx import find_nginx
from perf.model import Place, Scenario, World
from perf.report.results import Document, read_documents
from perf.run.dataset import FileSpec, difference, make_payload, scaled
from perf.run.runner import choose_tools, run_scenario
from perf.scenarios.hub import HUB_SCENARIOS
from perf.scenarios.registry import resolve
from perf.tools.base import client

ROOT = Path(__file__).parents[2]
needs_nginx = pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")


def told(line: str) -> None:
    """Progress of no interest."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("world", "payloads"):
        (tmp_path / name).mkdir()
    return Place(tmp_path / "world", tmp_path / "payloads", 1.0, told)


# --- from the command line


def perf(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(cwd)}
    return subprocess.run(
        [sys.executable, "-m", "perf", *arguments],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("scenario", ["hub-throttled", "hub-large-tls", "hub-shards", "hub-small"])
def test_a_scaled_run_from_end_to_end(tmp_path: Path, scenario: str) -> None:
    """Ours, huggingface_hub and the limit run in turn, are right, and nothing is left behind."""
    tools = ("hftransfer", "huggingface_hub", "limit")
    path = tmp_path / "runs.json"

    done = perf(
        "run", scenario, "--scale", "0.004", "--runs", "2", "--json", str(path), "--tool", *tools,
        cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (document,) = read_documents([path])
    assert [run.tool for run in document.runs] == [*tools, *tools[1:], tools[0]]
    assert all(run.ok and run.wall_s > 0 and run.cpu_s > 0 for run in document.runs)
    assert all(sum(run.requests.values()) >= document.files for run in document.runs)
    assert document.of("hftransfer")[0].timeline[-1][1] == document.bytes
    assert set(document.to_json()["ratio"]) == set(tools[1:])
    assert all(tool in done.stdout for tool in tools)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ctrl_c_ends_servers_and_tools(tmp_path: Path) -> None:
    """Interrupted in the middle of a run, the harness ends all it started and tidies up."""
    arguments = ["run", "hub-throttled", "--tool", "huggingface_hub", "--scale", "0.1"]
    with subprocess.Popen(
        [sys.executable, "-m", "perf", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as harness:
        assert harness.stderr is not None
        children = wait_for_measured_child(harness)
        harness.send_signal(signal.SIGINT)
        errors = harness.stderr.read()

    assert harness.returncode == 130, errors
    for descriptor in children:
        assert select.select([descriptor], [], [], 20)[0], "a process outlived the harness"
        os.close(descriptor)
    assert list(tmp_path.iterdir()) == []


def wait_for_measured_child(harness: subprocess.Popen[str]) -> list[int]:
    """Return pidfds of everything below the harness once huggingface_hub runs."""
    while harness.poll() is None:
        below = descendants(harness.pid)
        if any("hub_snapshot.py" in command for command in below.values()):
            return [os.pidfd_open(pid) for pid in below]
    pytest.fail("the harness ended by itself")


def descendants(root: int) -> dict[int, str]:
    """Command lines by process id of everything below `root`."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                commands[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: commands[pid] for pid in found - {root}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "hub-lagre"], "there is no scenario 'hub-lagre'; there are hub-throttled"),
        (["run", "hub-large", "--tool", "wget"], "hub-large has no tool 'wget'; it has hftransfer"),
        (["run", "hub-large", "--scale", "0"], "a scale must be above 0, not 0"),
        (["run", "hub-large", "--scale", "99999"], "GB are needed"),
        (["run", "hub-large", "--json", "/does/not/exist"], "/does/not/exist"),
        (["report", "/does/not/exist"], "/does/not/exist"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit code 2 and one line that says what is wrong."""
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_list_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Every scenario, every tool, and which of them are installed."""
    assert main(["list"]) == 0

    out = capsys.readouterr().out
    for name in ("hub-throttled", "hub-xet", "fixed-cost", "hf_transfer", "limit"):
        assert name in out


def test_a_report_replaces_the_part_of_a_readme(tmp_path: Path) -> None:
    """The table and the pictures stand between the markers, with addresses from the README."""
    document = tmp_path / "runs.json"
    run = {
        "tool": "hftransfer", "version": "1", "round": 0, "wall_s": 1.5, "user_s": 0.5,
        "sys_s": 0.5, "peak_rss_mb": 99.0, "ok": True,
    }  # fmt: skip
    curl = {**run, "tool": "curl", "wall_s": 3.0}
    value = {"scenario": "hub-large", "bytes": 10**9, "files": 1, "runs": [run, curl]}
    document.write_text(json.dumps(value))
    readme = tmp_path / "README.md"
    readme.write_text("# A\n<!-- perf:begin -->old<!-- perf:end -->\n# B\n")

    code = main(["report", str(document), "--svg", str(tmp_path / "docs"), "--readme", str(readme)])

    text = readme.read_text()
    assert code == 0
    assert text.startswith("# A\n<!-- perf:begin -->\n")
    assert text.endswith("\n<!-- perf:end -->\n# B\n")
    assert "old" not in text
    assert "| curl | 3.00 s | 0.50 | 1.00 |" in text
    assert "(docs/hub-times.svg)" in text
    assert (tmp_path / "docs" / "hub-times.svg").exists()


# --- outcomes


def test_a_wrong_byte_is_no_success(place: Place) -> None:
    """What a tool leaves is compared byte for byte, and its run is marked and kept."""
    setup = hub((FileSpec("a.json", 5000, "text"), FileSpec("b.json", 5000, "text")))

    @contextmanager
    def spoilt(place: Place) -> Iterator[World]:
        with setup(place) as world:
            assert isinstance(world, HubWorld)
            right = world.problem

            def problem(job: object) -> str | None:
                copy = Path(job.values["destination"]) / "b.json"  # type: ignore[attr-defined]
                data = bytearray(copy.read_bytes())
                data[4321] ^= 1
                copy.write_bytes(data)
                return right(job)  # type: ignore[arg-type]

            world.problem = problem  # type: ignore[method-assign]
            yield world

    tool = client("huggingface_hub", "hub_snapshot", distribution="huggingface_hub")
    document = run_one(Scenario("x", "", spoilt, (tool,)), place)

    assert [(run.ok, run.error) for run in document.runs] == [
        (False, "b.json differs within the MiB at byte 0")
    ]


def test_a_tool_that_fails_is_reported_with_its_last_words(place: Place) -> None:
    """The exit status and the end of its output become the reason."""
    tool = client("broken", "no_such_client", distribution="hftransfer")
    document = run_one(Scenario("x", "", hub((FileSpec("a.json", 9, "text"),)), (tool,)), place)

    (run,) = document.runs
    assert not run.ok
    assert run.error is not None
    assert run.error.startswith("exit status 2: ")
    assert "no_such_client" in run.error


def run_one(scenario: Scenario, place: Place) -> Document:
    return run_scenario(scenario, choose_tools(scenario, (), told), place, runs=1)


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_without_nginx_the_hub_server_serves_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Measuring goes on, with a line that says what the figures then mean."""
    monkeypatch.setattr("perf.fixtures.hub.find_nginx", lambda: None)
    lines: list[str] = []
    place = Place(tmp_path, tmp_path, 1.0, lines.append)
    kind: Literal["random", "text"] = "random" if path.endswith("safetensors") else "text"
    setup = hub((FileSpec(path, 300_000, kind),), front=kind == "text")
    tools = (
        client("huggingface_hub", "hub_snapshot", distribution="huggingface_hub"),
        client("limit", "limit", distribution="hftransfer", stores=False),
    )

    document = run_one(Scenario("x", "", setup, tools), place)

    assert [run.error for run in document.runs] == [None, None]
    assert any("nginx is not installed" in line for line in lines)
    assert all(sum(run.requests.values()) >= 2 for run in document.runs)


@needs_nginx
def test_nginx_answers_for_small_files_as_the_hub_does(place: Place) -> None:
    """Status, length and every header that clients read are those of the Hub server."""
    small = [FileSpec(f"data/{name}", 700, "text") for name in ("a.json", "b c+é.json")]
    with hub([*small, FileSpec("model.safetensors", 900)], front=True)(place) as world:
        assert isinstance(world, HubWorld)
        with world.job("x"):
            endpoint, commit = world.server.endpoint, world.repo.head
            names = [*(spec.path for spec in small), "model.safetensors", "missing.json"]
            urls = [f"{endpoint}/perf/model/resolve/{commit}/{quote(name)}" for name in names]
            own = world.server.own_endpoint
            for url in urls:
                for method in ("HEAD", "GET"):
                    through = follow(method, url)
                    direct = follow(method, url.replace(endpoint, own))
                    assert through == direct
            world.server.clear_requests()
            before = world.requests()["hub"]
            follow("GET", urls[0])
            assert world.requests()["hub"] - before == 2
            assert not world.server.requests  # none of it reached Python


def follow(method: str, url: str) -> list[object]:
    """Return what matters of an answer and of the one that it redirects to."""
    seen: list[object] = []
    while True:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        connection.request(method, url.removeprefix(f"http://{parts.netloc}"))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        names = [
            "RateLimit",
            "ETag",
            "X-Repo-Commit",
            "X-Linked-Etag",
            "X-Linked-Size",
            "X-Error-Code",
        ]
        redirected = answer.status == 307
        names += ["Location"] if redirected else ["Accept-Ranges"]
        kept = {name: answer.headers.get_all(name) for name in names}
        seen.append((answer.status, kept, b"" if redirected else body))
        if not redirected:
            return seen
        url = f"http://{parts.netloc}{answer.headers['Location']}"


@needs_nginx
@pytest.mark.skipif(shutil.which("ss") is None, reason="iproute2 is not installed")
def test_a_cdn_connection_is_held_to_its_rate(place: Place) -> None:
    """The kernel paces what nginx accepts, whatever the requests on the connection are."""
    rate = 4_000_000
    shape = hub((FileSpec("model.safetensors", 100_000),), bytes_per_second=rate)
    with shape(place) as world, world.job("x") as job:
        parts = urlsplit(job.values["files"][0]["url"])
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        connection.request("GET", parts.path, headers={"Range": "bytes=50-59"})
        answer = connection.getresponse()
        assert (answer.status, len(answer.read())) == (206, 10)
        limit = most_bytes_per_second(int(parts.netloc.rpartition(":")[2]))
        connection.close()

    assert limit == rate


def most_bytes_per_second(port: int) -> int:
    """Return the highest limit that the kernel puts on a server's connections, 0 for none."""
    listed = subprocess.run(
        ["ss", "-tniO", f"sport = :{port}"], capture_output=True, text=True, check=True
    )
    words = listed.stdout.split()
    rates = [words[i + 1] for i, word in enumerate(words) if word == "pacing_rate"]
    limits = [rate.partition("/")[2].removesuffix("bps") for rate in rates if "/" in rate]
    return max([round(float(limit)) // 8 for limit in limits], default=0)


# --- payloads


def test_payloads_are_made_once_and_differ(tmp_path: Path) -> None:
    """A second world with the same files finds them; other files are others."""
    specs = (
        FileSpec("a/b.bin", 3_000_000),
        FileSpec("c.json", 1000, "text"),
        FileSpec("d.bin", 20_000_000, "sparse"),
    )
    folder = make_payload(specs, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    assert make_payload(specs, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert make_payload(scaled(specs, 0.5), tmp_path) != folder
    assert [(folder / spec.path).stat().st_size for spec in specs] == [s.size for s in specs]
    assert (folder / "c.json").read_text().isascii()
    assert (folder / "d.bin").stat().st_blocks * 512 < 1_000_000
    assert difference(folder, folder, [spec.path for spec in specs]) is None


def test_differences_are_named(tmp_path: Path) -> None:
    """Missing, of another length, or of other bytes."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "a").write_bytes(bytes(3_000_000))
    (other / "a").write_bytes(bytes(2_999_999) + b"x")
    (one / "b").write_bytes(b"12")
    (other / "b").write_bytes(b"1")
    (one / "c").write_bytes(b"")

    assert difference(one, other, ["a"]) == "a differs within the MiB at byte 2097152"
    assert difference(one, other, ["b"]) == "b has 1 bytes in place of 2"
    assert difference(one, other, ["c"]) == "c is missing"


def test_scaling_keeps_the_kind_of_a_scenario() -> None:
    """Large files shrink; many small ones become fewer of the same size."""
    assert scaled((FileSpec("a", 1000),), 0.1) == (FileSpec("a", 100),)
    assert scaled((FileSpec("a", 3),), 0.001)[0].size == 1
    assert len(scaled([FileSpec(str(i), 50_000) for i in range(3000)], 0.01)) == 30


def test_names_stand_for_scenarios() -> None:
    """A group names its scenarios, each runs once, in order."""
    names = [scenario.name for scenario in resolve(["hub-rss", "hub-large", "hub-rss-8g"])]

    assert names == ["hub-rss-200m", "hub-rss-8g", "hub-large"]
    assert [s.name for s in resolve(["all"])][: len(HUB_SCENARIOS)] == [
        s.name for s in HUB_SCENARIOS
    ]
