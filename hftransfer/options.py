"""Options: small frozen keyword-only dataclasses, validated when made.

`TransferOptions` is what a client takes. Every field states its unit and default;
`dataclasses.replace` varies one; `TransferOptions.from_env` reads ``HFTRANSFER_*``.
Nothing here reads the environment at import.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hftransfer._core.memory import memory_limit
from hftransfer._core.units import MIB, parse_size
from hftransfer.errors import OptionsError

__all__ = ("HubOptions", "RetryPolicy", "S3Options", "Timeouts", "TransferOptions")

_MIN_CHUNK = 64 * 1024
_MAX_CHUNK = 5 << 30
_MACHINE_FRACTION = 0.25


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except ValueError:
        return False


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise OptionsError(message)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long a failed request is tried again.

    Delays are exponential with full jitter between `wait_initial` and `wait_max`; a
    delay that the server asks for is obeyed instead. Both limits hold at once.
    """

    attempts: int = 8
    """Tries of one request in all. Default 8."""
    deadline: float = 600.0
    """Seconds from the first failure after which no new try is started. Default 600."""
    wait_initial: float = 0.1
    """Upper bound of the first delay, seconds. Default 0.1."""
    wait_max: float = 15.0
    """Upper bound of any delay of our own choice, seconds. Default 15."""

    def __post_init__(self) -> None:
        _require(self.attempts >= 1, "retry.attempts must be at least 1")
        _require(self.deadline >= 0, "retry.deadline must not be negative")
        _require(0 <= self.wait_initial <= self.wait_max, "retry waits: 0 <= initial <= max")


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Limits on waiting for the network, in seconds. Time spent on disk never counts."""

    connect: float = 10.0
    """To open a connection, name resolution and TLS included. Default 10."""
    read: float = 30.0
    """Without a single byte arriving, for headers and body alike. Default 30."""

    def __post_init__(self) -> None:
        _require(self.connect > 0 and self.read > 0, "timeouts must be positive")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Which Hub, and as whom."""

    endpoint: str | None = None
    """Base URL. Default: huggingface_hub's (``HF_ENDPOINT``)."""
    token: str | bool | None = field(default=None, repr=False)
    """As in huggingface_hub: text, True (must be stored), False (none), None (if there is one)."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further headers for requests to the Hub itself; they never go to another host."""
    library_name: str | None = None
    library_version: str | None = None
    user_agent: Mapping[str, str] | str | None = None

    def __post_init__(self) -> None:
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise OptionsError(f"hub.endpoint must be an http(s) URL, not {self.endpoint!r}")


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """Which S3, and as whom. What is None is resolved by botocore (``AWS_*``, profiles, roles)."""

    endpoint_url: str | None = None
    region_name: str | None = None
    profile: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    verify: bool | str | None = None
    """TLS verification: True, False, or the path of a CA bundle. Default: botocore's."""
    addressing_style: str = "auto"
    """``auto``, ``path`` or ``virtual``. Default auto: ``path`` at an endpoint of one's own."""
    anonymous: bool = False
    """Send unsigned requests, for public buckets. Default False."""
    server_side_encryption: str | None = None
    """For objects that are written: ``AES256``, ``aws:kms`` or ``aws:kms:dsse``. Default: as the
    bucket says."""
    kms_key_id: str | None = None
    """Which key of KMS; needs one of the ``aws:kms`` encryptions. Default: the account's."""
    customer_key: str | None = field(default=None, repr=False)
    """The key of SSE-C, 32 bytes in base64, for objects that are read and written. Default none."""
    storage_class: str | None = None
    """For objects that are written, such as ``STANDARD_IA``. Default: the store's."""
    overwrite: bool = True
    """False refuses, at the store, to replace an object that exists. Default True."""

    def __post_init__(self) -> None:
        _require(
            self.addressing_style in ("auto", "path", "virtual"),
            f"s3.addressing_style must be auto, path or virtual, not {self.addressing_style!r}",
        )
        _require(
            (self.access_key_id is None) == (self.secret_access_key is None),
            "s3.access_key_id and s3.secret_access_key go together",
        )
        _require(
            not self.anonymous or (self.access_key_id is None and self.profile is None),
            "s3.anonymous excludes credentials and profiles",
        )
        _require(
            self.kms_key_id is None or (self.server_side_encryption or "").startswith("aws:kms"),
            "s3.kms_key_id needs server_side_encryption aws:kms or aws:kms:dsse",
        )
        if self.customer_key is not None:
            _require(
                self.server_side_encryption is None,
                "s3.customer_key and s3.server_side_encryption exclude each other",
            )
            _require(_is_key(self.customer_key), "s3.customer_key must be 32 bytes in base64")


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """How a client moves data.

    Memory used for data never exceeds `memory_budget`, whatever is moved. Connections
    are counted per client and direction.
    """

    chunk_size: int = 8 * MIB
    """Bytes moved by one request; raised where a store's part limits ask for it. Default 8 MiB."""
    connections: int | None = None
    """Requests in flight per direction. Default: found out, from 16 to 64, by what pays."""
    bandwidth: float | None = None
    """Bytes per second that all transfers of the client may take together. Default: no cap."""
    loops: int | None = None
    """Event loops for large bodies: the running one, and threads for the others. More than one
    helps where they take more than one core, as they do with TLS at some 10 Gbit/s.
    Default: with TLS one per core, 4 at most; without it 1."""
    memory_budget: int | None = None
    """Bytes for data buffers. Default: 192 MiB, or a quarter of the machine or cgroup if less."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    verify: bool = True
    """Check whole files against the source's own digest (sha256, git sha1). Default True."""
    fsync: bool = False
    """Flush files to the disk before they get their names, which protects them from a power
    failure at the price of waiting for the disk. A killed process needs no flush. Default False."""
    direct_io: Literal["auto", "on", "off"] = "auto"
    """Write files past the page cache (``O_DIRECT``), where the file system can: ``on``,
    ``off``, or ``auto``: if the transfer is larger than half of the memory that could cache
    it, or once the disk turns out to be clearly quicker, or copies into the cache to take more
    of the cores than there is while the disk can take all that arrives; as long as it then
    keeps up. Default auto."""
    hub: HubOptions = field(default_factory=HubOptions)
    s3: S3Options = field(default_factory=S3Options)

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
        """Bytes that may be used for data, with the default worked out."""
        if self.memory_budget is not None:
            return self.memory_budget
        share = int(memory_limit() * _MACHINE_FRACTION)
        return max(self.chunk_size, min(192 * MIB, share))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> TransferOptions:
        """Read ``HFTRANSFER_`` and a field's name in capitals, and ``HFTRANSFER_ATTEMPTS``.

        That is CHUNK_SIZE, CONNECTIONS, MEMORY_BUDGET, BANDWIDTH, LOOPS, VERIFY, FSYNC and
        DIRECT_IO. Sizes are bytes or carry a unit (``16MiB``), the bandwidth is such a size
        per second. What is not set keeps its default.

        Raises:
            OptionsError: if a value cannot be understood or is out of range.
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
        if text := env.get("HFTRANSFER_ATTEMPTS"):
            values["retry"] = RetryPolicy(attempts=_parse_int("HFTRANSFER_ATTEMPTS", text))
        return cls(**values)  # type: ignore[arg-type]


def _parse_int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OptionsError(f"{name} must be a whole number, not {text!r}") from None


def _parse_bool(name: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise OptionsError(f"{name} must be true or false, not {text!r}")
