"""`hftransfer._io.process_identity`: which process made a lock or a file, and whether it lives."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._io.process_identity import ProcessIdentity, is_token_of_dead_process, own_token


def _tell(expression: str) -> str:
    """Return the value of `expression` in a process that has ended."""
    code = f"from hftransfer._io.process_identity import *; print({expression}, end='')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout


def test_a_process_that_ended_is_dead() -> None:
    """By its identity and by its token; this process lives."""
    other = ProcessIdentity.parse(_tell("ProcessIdentity.current()"))

    assert other is not None
    assert other.is_dead
    assert is_token_of_dead_process(_tell("own_token()"))
    assert not ProcessIdentity.current().is_dead
    assert not is_token_of_dead_process(own_token())


def test_a_process_with_the_number_of_a_dead_one_is_not_it() -> None:
    """The start of the process, and the boot of the machine, are part of the identity."""
    own = ProcessIdentity.current()
    assert own.start is not None

    assert replace(own, start=own.start - 1).is_dead
    assert replace(own, start=own.start + (1 << 64)).is_dead
    assert not replace(own, start=None).is_dead


def test_a_zombie_is_dead() -> None:
    """Its parent has not asked for its status, but its files are closed."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert replace(ProcessIdentity.current(), pid=pid, start=None).is_dead
    finally:
        os.waitpid(pid, 0)


def test_of_another_machine_nothing_is_known() -> None:
    """A process that does not run here may run there."""
    other = ProcessIdentity.parse(_tell("ProcessIdentity.current()"))
    assert other is not None

    assert not replace(other, host="elsewhere").is_dead
    assert not is_token_of_dead_process("0" * 32)
    assert not is_token_of_dead_process("short")


def test_tokens_are_unique() -> None:
    """Two files of one process have different names."""
    assert len({own_token() for _ in range(100)}) == 100
    assert {len(own_token()) for _ in range(100)} == {32}


@given(
    pid=st.integers(1, (1 << 31) - 1),
    host=st.from_regex(r"[!-~]+", fullmatch=True),
    start=st.none() | st.integers(0, 1 << 192),
)
def test_the_text_form_is_read_back(pid: int, host: str, start: int | None) -> None:
    """Every identity, and none from a part of its text."""
    identity = ProcessIdentity(pid, host, start)

    assert ProcessIdentity.parse(str(identity)) == identity
    assert ProcessIdentity.parse(str(identity)[:-1]) is None


@pytest.mark.parametrize("text", ["", "\n", "x\nhost\n", "-1\nhost\n", "0\nhost\n", "1\n\n", "1\n"])
def test_other_text_is_no_identity(text: str) -> None:
    """An incomplete or foreign record."""
    assert ProcessIdentity.parse(text) is None


def test_filelock_writes_and_reads_the_same_form() -> None:
    """huggingface_hub's locks, where there is no flock, have such a record."""
    identity = pytest.importorskip("filelock._identity", reason="a version without records")
    own = ProcessIdentity.current()

    assert identity.host_name() == own.host
    assert identity.process_start_token(own.pid) in (own.start, None)
