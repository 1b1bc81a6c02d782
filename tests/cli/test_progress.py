"""The progress display: lines in a log, one updated line on a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

from hftransfer._core.events import BytesMoved, Recovered, Retrying, TransferStarted, Waiting
from hftransfer.cli.progress import ProgressDisplay
from hftransfer.errors import ServerError
from hftransfer.testing import Fault, HubServer, RandomFile, Status
from support.cli import CHUNK, run_cli

MIB = 1 << 20
BIG = RandomFile(40 * CHUNK, seed=3)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_updated_line() -> None:
    """Every 4 MiB the line is erased and rewritten; retries are not shown; it ends at exit."""
    terminal = Terminal()
    with ProgressDisplay(terminal, quiet=False) as progress:
        progress(TransferStarted(files=1, bytes=10 * MIB))
        for _ in range(10):
            progress(BytesMoved("a.bin", MIB))
        progress(Retrying("a.bin", ServerError("503"), 0.5))

    assert terminal.getvalue().split("\r\x1b[K") == [
        "",
        " 40 %  4.0 MiB of 10.0 MiB",
        " 80 %  8.0 MiB of 10.0 MiB",
        "100 %  10.0 MiB of 10.0 MiB\n",
    ]


def test_quiet_shows_nothing() -> None:
    """`--json` leaves standard error empty."""
    stream = io.StringIO()
    with ProgressDisplay(stream, quiet=True) as progress:
        progress(TransferStarted(files=1, bytes=MIB))
        progress(BytesMoved("a.bin", MIB))
        progress(Retrying("a.bin", ServerError("503"), 0.5))

    assert stream.getvalue() == ""


def test_progress_in_a_log_is_one_line_per_step(hub: HubServer, tmp_path: Path) -> None:
    """Without a terminal: at most a line per 10 %, no control characters, the last at 100 %."""
    hub.create_repo("acme/big", files={"model.bin": BIG})
    lines = run_cli("cp", "hf://acme/big", tmp_path / "out", hub=hub).stderr.splitlines(
        keepends=True
    )

    assert len(lines) >= 5
    assert all(line.endswith("\n") for line in lines)
    assert not any("\r" in line or "\x1b" in line for line in lines)
    assert lines[-1] == "100 %  2.5 MiB of 2.5 MiB\n"
    percents = [int(line.split("%")[0]) for line in lines]
    assert percents == sorted(percents)


def test_a_retry_is_one_line_in_a_log(hub: HubServer, tmp_path: Path) -> None:
    """The line has the path, the reason and the delay, and no part of a signed URL."""
    hub.create_repo("acme/big", files={"model.bin": BIG})
    hub.add_fault(Fault(action=Status(503), host="cdn", ranged=True))
    finished = run_cli("cp", "hf://acme/big", tmp_path / "out", hub=hub)

    assert finished.returncode == 0
    assert re.search(r"^model\.bin: .*503; retrying in \d+\.\d s$", finished.stderr, re.M)
    assert "Signature" not in finished.stderr
    assert finished.stdout.rstrip().endswith(", 1 retry")


OUTAGE = Waiting("http://host:1", "it answered 503", delay=3.0, elapsed=8.0, requested=False)
WISH = Waiting("http://host:1", "it answered 429", delay=12.0, elapsed=0.0, requested=True)


def test_an_outage_is_shown_until_it_ends() -> None:
    """What is waited for and how long; failures of single files add nothing meanwhile."""
    log = io.StringIO()
    with ProgressDisplay(log, quiet=False) as progress:
        progress(TransferStarted(files=1, bytes=10 * MIB))
        progress(replace(OUTAGE, elapsed=0.2))  # too short to be shown
        progress(OUTAGE)
        progress(Retrying("a.bin", ServerError("503"), 3.0))
        progress(WISH)
        progress(Recovered("http://host:1", 20.0))

    assert log.getvalue().splitlines() == [
        "no answer from http://host:1 for 8 s, trying again in 3 s (it answered 503)",
        "http://host:1 asks to wait: 12 s (it answered 429)",
        "http://host:1 answers again after 20 s",
    ]


def test_a_terminal_shows_an_outage_in_the_line_of_the_progress() -> None:
    """The line is ended at exit, also if no byte was moved."""
    terminal = Terminal()
    with ProgressDisplay(terminal, quiet=False) as progress:
        progress(TransferStarted(files=1, bytes=10 * MIB))
        progress(WISH)

    assert terminal.getvalue() == "\r\x1b[Khttp://host:1 asks to wait: 12 s (it answered 429)\n"
