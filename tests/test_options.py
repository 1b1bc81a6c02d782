"""`hftransfer.options`: validation, environment variables, and the repr without secrets."""

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
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NAN = float("nan")
_KEY = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RetryPolicy(attempts=0), "attempts"),
        (lambda: RetryPolicy(deadline=-1), "deadline"),
        (lambda: RetryPolicy(deadline=NAN), "deadline"),
        (lambda: RetryPolicy(wait_initial=-0.1), "initial"),
        (lambda: RetryPolicy(wait_initial=2, wait_max=1), "max"),
        (lambda: Timeouts(connect=0), "timeouts.connect"),
        (lambda: Timeouts(read=-1), "timeouts.read"),
        (lambda: Timeouts(read=NAN), "timeouts.read"),
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
def test_the_message_names_an_option_out_of_range(make: Callable[[], object], name: str) -> None:
    """The constructor raises OptionsError, which is a ValueError."""
    with pytest.raises(OptionsError, match=name) as caught:
        make()

    assert isinstance(caught.value, ValueError)


def test_replace_validates_the_copy() -> None:
    """`dataclasses.replace` cannot make an invalid copy."""
    options = TransferOptions(chunk_size=MIB, memory_budget=MIB)

    assert dataclasses.replace(options, chunk_size=64 * KIB).memory_budget == MIB
    with pytest.raises(OptionsError, match="memory_budget"):
        dataclasses.replace(options, chunk_size=2 * MIB)


def test_the_repr_shows_no_secret() -> None:
    """Tokens, keys and additional headers are left out, so that options can be logged."""
    options = TransferOptions(
        hub=HubOptions(token="hf_secret1", headers={"cookie": "secret2"}),
        s3=S3Options(access_key_id="secret3", secret_access_key="secret4", session_token="secret5"),
    )

    assert "secret" not in repr(options).replace("secret_", "")


def test_an_empty_environment_gives_the_defaults() -> None:
    """Unset and empty variables have no effect."""
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
    """Each of the nine ``HFTRANSFER_*`` variables, and no other."""
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
    """Without an argument, at the time of the call."""
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
def test_from_env_shows_the_invalid_value(name: str, value: str) -> None:
    """The message contains it."""
    with pytest.raises(OptionsError, match=value):
        TransferOptions.from_env({name: value})


@given(chunk_size=st.integers(64 * KIB, 5 * GIB))
def test_the_default_budget_is_at_most_192_mib_or_one_chunk(chunk_size: int) -> None:
    """It always suffices for one chunk."""
    budget = TransferOptions(chunk_size=chunk_size).resolved_memory_budget

    assert chunk_size <= budget <= max(chunk_size, 192 * MIB)


def test_an_explicit_budget_is_used_unchanged() -> None:
    """It may be larger than the default of this machine."""
    assert TransferOptions(memory_budget=GIB).resolved_memory_budget == GIB


def test_the_deadline_of_retries_is_read_from_the_environment() -> None:
    """In seconds, beside the number of attempts; anything else is an error that names it."""
    options = TransferOptions.from_env({"HFTRANSFER_RETRY_DEADLINE": "2.5"})

    assert options.retry == RetryPolicy(deadline=2.5)
    assert options.retry.attempts is None
    with pytest.raises(OptionsError, match="HFTRANSFER_RETRY_DEADLINE must be a number"):
        TransferOptions.from_env({"HFTRANSFER_RETRY_DEADLINE": "soon"})
