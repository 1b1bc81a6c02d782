"""Move model checkpoints and datasets between the Hugging Face Hub, S3 and local disk.

Everything public is here; `hftransfer.aio` has the asynchronous originals of the
functions, `hftransfer.testing` servers for tests. Importing this package loads neither
an HTTP client nor botocore nor huggingface_hub: they come with the first client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hftransfer._client.client import AsyncClient
    from hftransfer._core.manifest import FileManifest, Manifest
    from hftransfer._hub_compat.sync_download import hf_hub_download, snapshot_download
    from hftransfer.errors import (
        AccessError,
        DestinationError,
        DiskFullError,
        IntegrityError,
        LocationError,
        NetworkError,
        NotFoundError,
        OptionsError,
        RejectedError,
        ServerError,
        SourceChangedError,
        StalledError,
        ThrottledError,
        TransferError,
        TransientError,
        UnsupportedError,
    )
    from hftransfer.options import HubOptions, RetryPolicy, S3Options, Timeouts, TransferOptions
    from hftransfer.report import Report, Verification
    from hftransfer.sync import Client, copy

# Metaflow ships packages that say so with the code of a remote task.
METAFLOW_PACKAGE_POLICY = "include"

_HOMES = {
    "_client.client": ("AsyncClient",),
    "_hub_compat.sync_download": ("hf_hub_download", "snapshot_download"),
    "_core.manifest": ("FileManifest", "Manifest"),
    "errors": (
        "AccessError",
        "DestinationError",
        "DiskFullError",
        "IntegrityError",
        "LocationError",
        "NetworkError",
        "NotFoundError",
        "OptionsError",
        "RejectedError",
        "ServerError",
        "SourceChangedError",
        "StalledError",
        "ThrottledError",
        "TransferError",
        "TransientError",
        "UnsupportedError",
    ),
    "options": ("HubOptions", "RetryPolicy", "S3Options", "Timeouts", "TransferOptions"),
    "report": ("Report", "Verification"),
    "sync": ("Client", "copy"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = (
    "AccessError",
    "AsyncClient",
    "Client",
    "DestinationError",
    "DiskFullError",
    "FileManifest",
    "HubOptions",
    "IntegrityError",
    "LocationError",
    "Manifest",
    "NetworkError",
    "NotFoundError",
    "OptionsError",
    "RejectedError",
    "Report",
    "RetryPolicy",
    "S3Options",
    "ServerError",
    "SourceChangedError",
    "StalledError",
    "ThrottledError",
    "Timeouts",
    "TransferError",
    "TransferOptions",
    "TransientError",
    "UnsupportedError",
    "Verification",
    "__version__",
    "copy",
    "hf_hub_download",
    "snapshot_download",
)


def __getattr__(name: str) -> Any:
    """Load what is asked for: a decorator or an options object needs no event loop."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("hftransfer")
    elif name == "aio":
        value = import_module("hftransfer.aio")
    elif name in _MODULES:
        value = getattr(import_module(f"hftransfer.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
