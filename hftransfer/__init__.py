"""Move model checkpoints and datasets between the Hugging Face Hub, S3 and local disk.

The public names are here. `hftransfer.aio` has the functions as coroutine functions, and
`hftransfer.testing` has servers for tests. Importing this package loads no HTTP client, no
botocore and no huggingface_hub: a name is imported at its first use, and those libraries when
a client first needs them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("hftransfer does not support Windows: use it in WSL 2, or on Linux or macOS")

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

# Metaflow adds a package that defines this to the code package of remote tasks.
METAFLOW_PACKAGE_POLICY = "include"

_NAMES_BY_MODULE = {
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
_MODULE_BY_NAME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

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
    """Import a public name at its first use: code that only makes options loads no event loop."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("hftransfer")
    elif name == "aio":
        value = import_module("hftransfer.aio")
    elif name in _MODULE_BY_NAME:
        value = getattr(import_module(f"hftransfer.{_MODULE_BY_NAME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
