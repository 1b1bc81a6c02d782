"""Options of a client: frozen, keyword-only dataclasses, validated when they are created.

A client takes `TransferOptions`, which contains the other classes. `dataclasses.replace` returns a
changed copy, and `TransferOptions.from_env` reads the environment variables ``HFTRANSFER_*``. An
invalid value raises `OptionsError`, which is a ValueError. Importing this module does not read
the environment.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hftransfer._core.memory import memory_limit
from hftransfer._core.units import MIB, parse_size
from hftransfer.errors import OptionsError, RedactedUrl, redact

__all__ = ("HubOptions", "RetryPolicy", "S3Options", "Timeouts", "TransferOptions")

_MIN_CHUNK = 64 * 1024
_MAX_CHUNK = 5 << 30
_MEMORY_SHARE = 0.25  # of the memory of the machine or control group


def _is_customer_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except ValueError:
        return False


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise OptionsError(message)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """For how long, and how often, a failed operation is retried.

    An operation is the read or write of one chunk, one page of a listing, or another request.
    `deadline` limits what an outage causes: a connection that fails or is silent, a host whose
    name cannot be resolved, a status 429 or 5xx. It counts from the operation's first failure.
    Progress (bytes that arrive) begins a new count, and so does the end of an outage, so a
    transfer survives any number of outages that are shorter.

    The delay after n failures in a row is random between 50 and 100 % of
    ``min(wait_max, wait_initial * 2**(n-1))`` seconds. While a server is down, all operations of a
    client share this delay: one of them tries again, the others wait for the result. A longer
    delay that the server asks for (``Retry-After``) replaces it; one that goes beyond the
    deadline ends the retries at once.
    """

    attempts: int | None = None
    """Most attempts for one operation, the first one included; at least 1. Default None: no limit
    but `deadline` for what an outage causes; 8 for other failures, such as a response with the
    wrong bytes, or a host that does not exist and never responded before. Bytes that arrive begin
    a new count."""
    deadline: float = 600.0
    """Seconds after the first failure during which retries may start. Default 600."""
    wait_initial: float = 0.1
    """Longest delay before the first retry, seconds. Default 0.1."""
    wait_max: float = 15.0
    """Longest delay before any retry, seconds, unless the server asks for more. Default 15."""

    def __post_init__(self) -> None:
        _require(self.attempts is None or self.attempts >= 1, "retry.attempts must be at least 1")
        _require(self.deadline >= 0, "retry.deadline must not be negative")
        _require(
            0 <= self.wait_initial <= self.wait_max,
            "retry.wait_initial must be between 0 and retry.wait_max",
        )


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Limits on waiting for the network, in seconds. Time in which the disk is slow is excluded.

    A request that exceeds one fails with `NetworkError` or `StalledError` and is retried.
    """

    connect: float = 10.0
    """To open a connection, including name resolution and the TLS handshake. Default 10."""
    read: float = 30.0
    """Without a byte of the response headers or the body arriving. Default 30."""

    def __post_init__(self) -> None:
        _require(self.connect > 0, "timeouts.connect must be positive")
        _require(self.read > 0, "timeouts.read must be positive")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """The Hugging Face Hub: its address, credentials and request headers."""

    endpoint: str | None = None
    """Base URL, http or https. A user and password in it are sent as Basic authentication in place
    of the token, as huggingface_hub does. Default: that of huggingface_hub (``HF_ENDPOINT``)."""
    token: str | bool | None = field(default=None, repr=False)
    """Access token, as in huggingface_hub: a string is the token, True requires the stored token,
    False sends none, None sends the stored token if there is one. Default None."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Additional headers of requests to the Hub; not sent to other hosts. Default none."""
    library_name: str | None = None
    """Name of the calling library, for the User-Agent header. Default: hftransfer."""
    library_version: str | None = None
    """Version of the calling library, for the User-Agent header. Default: none."""
    user_agent: Mapping[str, str] | str | None = None
    """Additional fields of the User-Agent header. Default: none."""

    def __post_init__(self) -> None:
        if self.endpoint is None:
            return
        if not self.endpoint.startswith(("http://", "https://")):
            raise OptionsError(
                f"hub.endpoint must be an http(s) URL, not {redact(self.endpoint)!r}"
            )
        object.__setattr__(self, "endpoint", RedactedUrl(self.endpoint))


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """An S3 store: its address, credentials and the properties of new objects.

    The first six fields are resolved by botocore if they are None: from the environment
    (``AWS_*``), the configuration files and the roles of the machine.
    """

    endpoint_url: str | None = None
    """URL of the store. A user and password in it are the access key and its secret, if no others
    are given. Default: botocore's, which is AWS."""
    region_name: str | None = None
    """Region of the bucket. Default: botocore's."""
    profile: str | None = None
    """Profile of the AWS configuration files. Default: botocore's."""
    access_key_id: str | None = field(default=None, repr=False)
    """Access key; requires `secret_access_key`. Default: botocore's credentials."""
    secret_access_key: str | None = field(default=None, repr=False)
    """Secret of `access_key_id`. Default: botocore's credentials."""
    session_token: str | None = field(default=None, repr=False)
    """Session token of temporary credentials. Default: botocore's credentials."""
    verify: bool | str | None = None
    """TLS verification: True, False, or the path of a CA bundle. Default: botocore's."""
    addressing_style: str = "auto"
    """Where URLs contain the bucket: ``path``, ``virtual`` (in the host name) or ``auto``. Default
    auto: as the AWS configuration says, else ``path`` with an `endpoint_url` and botocore's choice
    without one."""
    anonymous: bool = False
    """Send unsigned requests, for public buckets. Default False."""
    server_side_encryption: str | None = None
    """Encryption of new objects: ``AES256``, ``aws:kms`` or ``aws:kms:dsse``. Default: that of the
    bucket."""
    kms_key_id: str | None = None
    """KMS key of new objects; requires an ``aws:kms`` encryption. Default: the account's key."""
    customer_key: str | None = field(default=None, repr=False)
    """SSE-C key, 32 bytes in base64, for all objects that are read or written. Excludes
    `server_side_encryption`. Default: none."""
    storage_class: str | None = None
    """Storage class of new objects, such as ``STANDARD_IA``. Default: the store's."""
    overwrite: bool = True
    """Replace existing objects. If False, the store rejects a write to an existing key.
    Default True."""

    def __post_init__(self) -> None:
        if self.endpoint_url is not None:
            object.__setattr__(self, "endpoint_url", RedactedUrl(self.endpoint_url))
        _require(
            self.addressing_style in ("auto", "path", "virtual"),
            f"s3.addressing_style must be auto, path or virtual, not {self.addressing_style!r}",
        )
        _require(
            (self.access_key_id is None) == (self.secret_access_key is None),
            "s3.access_key_id and s3.secret_access_key must be given together",
        )
        _require(
            not self.anonymous or (self.access_key_id is None and self.profile is None),
            "s3.anonymous cannot be combined with credentials or a profile",
        )
        _require(
            self.kms_key_id is None or (self.server_side_encryption or "").startswith("aws:kms"),
            "s3.kms_key_id requires s3.server_side_encryption aws:kms or aws:kms:dsse",
        )
        if self.customer_key is not None:
            _require(
                self.server_side_encryption is None,
                "s3.customer_key and s3.server_side_encryption exclude each other",
            )
            _require(
                _is_customer_key(self.customer_key), "s3.customer_key must be 32 bytes in base64"
            )


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """How a client transfers files. All transfers of one client share these limits."""

    chunk_size: int = 8 * MIB
    """Bytes per request, 64 KiB to 5 GiB. Adjusted for a file whose destination accepts only larger
    or smaller parts. Default 8 MiB."""
    connections: int | None = None
    """Requests in flight per direction, 1 to 1024. Default: adapts to the measured throughput, from
    16 to 64."""
    bandwidth: float | None = None
    """Bytes per second of all network traffic of the client, both directions together. Default:
    unlimited."""
    loops: int | None = None
    """Event loops that receive and send large bodies, 1 to 64: the running one, and one thread for
    each other. More than one is faster if a single core cannot keep up, as with TLS at 10 Gbit/s.
    Default: one per core, at most 4, for TLS; 1 otherwise."""
    memory_budget: int | None = None
    """Bytes of all data buffers together, at least `chunk_size`. Never exceeded, except by a single
    chunk that had to be made larger. Default: 192 MiB, or a quarter of the memory of the machine or
    control group if that is less."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Retries of failed requests."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    """Limits on waiting for the network."""
    verify: bool = True
    """Verify whole files against the digest that their source states (SHA-256, git SHA-1, a
    checksum of S3). A mismatch raises `IntegrityError`. Default True."""
    fsync: bool = False
    """Flush each file to the disk before it gets its final name, so that it survives a power
    failure; transfers then wait for the disk. Files survive a killed process without it.
    Default False."""
    direct_io: Literal["auto", "on", "off"] = "auto"
    """Write local files past the page cache (``O_DIRECT``) if the file system supports it: ``on``,
    ``off`` or ``auto``. ``auto`` does so for a transfer larger than half of the available page
    cache, and while direct writes are measured to be faster or the CPU is saturated. Default
    auto."""
    task: str | None = None
    """Name of the task that the client works for: equal when the task is restarted, and no other
    task's, such as the id of a batch job. A restart on another machine then continues the
    interrupted uploads of the task at once; without a name, when they have been idle for an hour.
    Only one process of a task may run at a time, or one begins its upload again. Default: none."""
    hub: HubOptions = field(default_factory=HubOptions)
    """The Hugging Face Hub."""
    s3: S3Options = field(default_factory=S3Options)
    """S3 stores."""

    def __post_init__(self) -> None:
        _require(
            _MIN_CHUNK <= self.chunk_size <= _MAX_CHUNK,
            f"chunk_size must be between 64 KiB and 5 GiB, not {self.chunk_size}",
        )
        _require(
            self.connections is None or 1 <= self.connections <= 1024,
            "connections must be between 1 and 1024",
        )
        _require(
            self.direct_io in ("auto", "on", "off"),
            f"direct_io must be auto, on or off, not {self.direct_io!r}",
        )
        _require(self.bandwidth is None or self.bandwidth > 0, "bandwidth must be positive")
        _require(self.loops is None or 1 <= self.loops <= 64, "loops must be between 1 and 64")
        if self.memory_budget is not None:
            _require(
                self.memory_budget >= self.chunk_size,
                f"memory_budget ({self.memory_budget}) must hold at least one chunk "
                f"({self.chunk_size})",
            )

    @property
    def resolved_memory_budget(self) -> int:
        """`memory_budget`, or its default for this machine, in bytes."""
        if self.memory_budget is not None:
            return self.memory_budget
        share = int(memory_limit() * _MEMORY_SHARE)
        return max(self.chunk_size, min(192 * MIB, share))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> TransferOptions:
        """Return the options that environment variables set; the others have their defaults.

        ``HFTRANSFER_CHUNK_SIZE``, ``HFTRANSFER_MEMORY_BUDGET``: a size such as ``16MiB``.
        ``HFTRANSFER_BANDWIDTH``: such a size per second.
        ``HFTRANSFER_CONNECTIONS``, ``HFTRANSFER_LOOPS``: a whole number.
        ``HFTRANSFER_ATTEMPTS``: a whole number, for `RetryPolicy.attempts`.
        ``HFTRANSFER_RETRY_DEADLINE``: seconds, for `RetryPolicy.deadline`.
        ``HFTRANSFER_VERIFY``, ``HFTRANSFER_FSYNC``: ``true`` or ``false``, ``1`` or ``0``.
        ``HFTRANSFER_TASK``: any text.
        ``HFTRANSFER_DIRECT_IO``: ``auto``, ``on`` or ``off``.

        Args:
            environ: the variables. Default: `os.environ`.

        Raises:
            OptionsError: if a value cannot be parsed or is out of range.
        """
        env = os.environ if environ is None else environ
        values: dict[str, object] = {}
        for name in ("chunk_size", "memory_budget", "bandwidth"):
            if text := env.get(f"HFTRANSFER_{name.upper()}"):
                values[name] = parse_size(text)
        for name in ("connections", "loops"):
            if text := env.get(f"HFTRANSFER_{name.upper()}"):
                values[name] = _parse_int(f"HFTRANSFER_{name.upper()}", text)
        for name in ("verify", "fsync"):
            if text := env.get(f"HFTRANSFER_{name.upper()}"):
                values[name] = _parse_bool(f"HFTRANSFER_{name.upper()}", text)
        if text := env.get("HFTRANSFER_DIRECT_IO"):
            values["direct_io"] = text.strip().lower()
        if text := env.get("HFTRANSFER_TASK"):
            values["task"] = text
        retry: dict[str, Any] = {}
        if text := env.get("HFTRANSFER_ATTEMPTS"):
            retry["attempts"] = _parse_int("HFTRANSFER_ATTEMPTS", text)
        if text := env.get("HFTRANSFER_RETRY_DEADLINE"):
            retry["deadline"] = _parse_seconds("HFTRANSFER_RETRY_DEADLINE", text)
        values["retry"] = RetryPolicy(**retry)
        return cls(**values)  # type: ignore[arg-type]


def _parse_int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OptionsError(f"{name} must be a whole number, not {text!r}") from None


def _parse_seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionsError(f"{name} must be a number of seconds, not {text!r}") from None


def _parse_bool(name: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise OptionsError(f"{name} must be true or false, not {text!r}")
