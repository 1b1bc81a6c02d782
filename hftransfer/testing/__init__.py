"""Servers for tests of code that moves models and datasets: real sockets, scripted faults.

`HubServer` is a Hugging Face Hub with its CDN. huggingface_hub, hftransfer and any other client
work against it unmodified::

    with HubServer() as hub:
        repo = hub.create_repo("acme/tiny", files={"config.json": b"{}"})
        repo.commit({"model.safetensors": RandomFile(64 << 20, seed=1)})
        hub.add_fault(Fault(host="cdn", ranged=True, action=CutBody(1_000_000)))
        huggingface_hub.snapshot_download("acme/tiny", endpoint=hub.endpoint)
"""

from hftransfer.testing._content import Blob, RandomFile
from hftransfer.testing._faults import (
    CorruptByte,
    CutBody,
    ExpireUrls,
    Fault,
    FaultHandle,
    IgnoreRange,
    Redirect,
    ResetConnection,
    Stall,
    Status,
    WrongRange,
)
from hftransfer.testing._repositories import Commit, Repo
from hftransfer.testing._request_log import RequestRecord
from hftransfer.testing.hub import HubServer

__all__ = [
    "Blob",
    "Commit",
    "CorruptByte",
    "CutBody",
    "ExpireUrls",
    "Fault",
    "FaultHandle",
    "HubServer",
    "IgnoreRange",
    "RandomFile",
    "Redirect",
    "Repo",
    "RequestRecord",
    "ResetConnection",
    "Stall",
    "Status",
    "WrongRange",
]
