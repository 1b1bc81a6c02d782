"""Options are checked when made, read from the environment, and keep secrets to themselves."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer.errors import OptionsError
from hftransfer.options import (
    HubOptions,
    RetryPolicy,
    S3Options,
    Timeouts,
    TransferOptions,
    parse_size,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NAN = float("nan")
_KEY = base64.b64encode(bytes(32)).decode()


@given(st.integers(0, 1 << 53))
def test_a_plain_number_is_bytes(number: int) -> None:
    """Digits alone are a count of bytes, exactly."""
    assert parse_size(str(number)) == number


@given(
    number=st.integers(0, 1 << 20),
    unit=st.sampled_from(
        [("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("K", KIB), ("M", MIB), ("G", GIB)]
        + [("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("B", 1)]
    ),
    spaces=st.tuples(*[st.sampled_from(["", " "])] * 3),
    change=st.sampled_from([str.lower, str.upper, str.swapcase]),
)
def test_units(
    number: int,
    unit: tuple[str, int],
    spaces: tuple[str, str, str],
    change: Callable[[str], str],
) -> None:
    """Units are binary unless written like ``MB``; case and spaces do not matter."""
    name, factor = unit
    text = f"{spaces[0]}{number}{spaces[1]}{change(name)}{spaces[2]}"

    assert parse_size(text) == number * factor


def test_fractions_of_a_unit() -> None:
    """``1.5GiB`` is one and a half."""
    assert parse_size("1.5GiB") == 3 * GIB // 2


@pytest.mark.parametrize(
    "text", ["", "MiB", "8 apples", "8TiBs", "8ib", "8bk", "eight", "inf", "nan", "0x10", "1,5M"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """The message repeats the text and shows the form."""
    with pytest.raises(OptionsError, match="not a size such as 8388608 or 8MiB") as caught:
        parse_size(text)

    assert repr(text) in str(caught.value)


@given(st.text("0123456789.-+ekmgib infa_", max_size=10))
def test_any_text_is_a_size_or_an_options_error(text: str) -> None:
    """No other exception comes out of what a user typed."""
    try:
        assert isinstance(parse_size(text), int)
    except OptionsError:
        pass


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RetryPolicy(attempts=0), "attempts"),
        (lambda: RetryPolicy(deadline=-1), "deadline"),
        (lambda: RetryPolicy(deadline=NAN), "deadline"),
        (lambda: RetryPolicy(wait_initial=-0.1), "initial"),
        (lambda: RetryPolicy(wait_initial=2, wait_max=1), "max"),
        (lambda: Timeouts(connect=0), "timeouts"),
        (lambda: Timeouts(read=-1), "timeouts"),
        (lambda: Timeouts(read=NAN), "timeouts"),
        (lambda: HubOptions(endpoint="hub.example"), "endpoint"),
        (lambda: S3Options(addressing_style="pathlike"), "pathlike"),
        (lambda: S3Options(access_key_id="id"), "secret_access_key"),
        (lambda: S3Options(secret_access_key="s"), "access_key_id"),
        (lambda: S3Options(kms_key_id="k"), "aws:kms"),
        (lambda: S3Options(customer_key="short"), "32 bytes"),
        (lambda: S3Options(customer_key=_KEY, server_side_encryption="AES256"), "exclude"),
        (lambda: S3Options(anonymous=True, profile="p"), "anonymous"),
        (lambda: TransferOptions(chunk_size=64 * KIB - 1), "chunk_size"),
        (lambda: TransferOptions(chunk_size=5 * GIB + 1), "chunk_size"),
        (lambda: TransferOptions(connections=0), "connections"),
        (lambda: TransferOptions(connections=1025), "connections"),
        (lambda: TransferOptions(chunk_size=8 * MIB, memory_budget=8 * MIB - 1), "memory_budget"),
    ],
)
def test_out_of_range_values_are_named(make: Callable[[], object], name: str) -> None:
    """A wrong value fails where it is written, also for those who only know ValueError."""
    with pytest.raises(OptionsError, match=name) as caught:
        make()

    assert isinstance(caught.value, ValueError)


def test_replace_checks_again() -> None:
    """`dataclasses.replace` cannot make an invalid copy."""
    options = TransferOptions(chunk_size=MIB, memory_budget=MIB)

    assert dataclasses.replace(options, chunk_size=64 * KIB).memory_budget == MIB
    with pytest.raises(OptionsError, match="memory_budget"):
        dataclasses.replace(options, chunk_size=2 * MIB)


def test_repr_shows_no_secret() -> None:
    """Options may be logged: tokens, keys and extra headers are left out of their repr."""
    options = TransferOptions(
        hub=HubOptions(token="hf_secret1", headers={"cookie": "secret2"}),
        s3=S3Options(access_key_id="secret3", secret_access_key="secret4", session_token="secret5"),
    )

    assert "secret" not in repr(options).replace("secret_", "")


def test_an_empty_environment_gives_the_defaults() -> None:
    """Neither unset nor empty variables change anything."""
    assert TransferOptions.from_env({}) == TransferOptions()
    assert TransferOptions.from_env({"HFTRANSFER_CHUNK_SIZE": ""}) == TransferOptions()


@given(
    chunk_size=st.integers(64 * KIB, 64 * MIB),
    connections=st.integers(1, 1024),
    extra=st.integers(0, GIB),
    verify=st.sampled_from([("1", True), ("off", False), ("Yes", True), (" false ", False)]),
    fsync=st.sampled_from([("0", False), ("TRUE", True), ("no", False), ("on", True)]),
    attempts=st.integers(1, 100),
    bandwidth=st.integers(1, 10 * GIB),
    loops=st.integers(1, 64),
    direct_io=st.sampled_from(["auto", "on", "off"]),
)
def test_every_variable_sets_its_field(
    chunk_size: int,
    connections: int,
    extra: int,
    verify: tuple[str, bool],
    fsync: tuple[str, bool],
    attempts: int,
    bandwidth: int,
    loops: int,
    direct_io: Literal["auto", "on", "off"],
) -> None:
    """The nine ``HFTRANSFER_*`` variables and nothing else decide."""
    environ = {
        "HFTRANSFER_CHUNK_SIZE": str(chunk_size),
        "HFTRANSFER_CONNECTIONS": str(connections),
        "HFTRANSFER_MEMORY_BUDGET": str(chunk_size + extra),
        "HFTRANSFER_VERIFY": verify[0],
        "HFTRANSFER_FSYNC": fsync[0],
        "HFTRANSFER_ATTEMPTS": str(attempts),
        "HFTRANSFER_BANDWIDTH": str(bandwidth),
        "HFTRANSFER_LOOPS": str(loops),
        "HFTRANSFER_DIRECT_IO": direct_io.upper(),
        "HFTRANSFER_UNKNOWN": "x",
    }

    assert TransferOptions.from_env(environ) == TransferOptions(
        chunk_size=chunk_size,
        connections=connections,
        memory_budget=chunk_size + extra,
        verify=verify[1],
        fsync=fsync[1],
        retry=RetryPolicy(attempts=attempts),
        bandwidth=bandwidth,
        loops=loops,
        direct_io=direct_io,
    )


def test_from_env_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument it is `os.environ`, at the time of the call."""
    monkeypatch.setenv("HFTRANSFER_CONNECTIONS", "3")

    assert TransferOptions.from_env().connections == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HFTRANSFER_CONNECTIONS", "many"),
        ("HFTRANSFER_ATTEMPTS", "1.5"),
        ("HFTRANSFER_LOOPS", "two"),
        ("HFTRANSFER_DIRECT_IO", "sometimes"),
        ("HFTRANSFER_VERIFY", "maybe"),
        ("HFTRANSFER_FSYNC", "2"),
        ("HFTRANSFER_CHUNK_SIZE", "8 apples"),
    ],
)
def test_from_env_names_what_it_cannot_read(name: str, value: str) -> None:
    """The offending text is in the message."""
    with pytest.raises(OptionsError, match=value):
        TransferOptions.from_env({name: value})


@given(chunk_size=st.integers(64 * KIB, 5 * GIB))
def test_the_default_budget_holds_a_chunk_and_little_more_than_192_mib(chunk_size: int) -> None:
    """The worked-out budget always suffices for one chunk, and is else at most 192 MiB."""
    budget = TransferOptions(chunk_size=chunk_size).resolved_memory_budget

    assert chunk_size <= budget <= max(chunk_size, 192 * MIB)


def test_a_given_budget_is_taken_as_it_is() -> None:
    """Nobody's explicit number is second-guessed."""
    assert TransferOptions(memory_budget=GIB).resolved_memory_budget == GIB
