"""Servers for tests of code that transfers models and datasets: real sockets, injected faults.

`HubServer` is a Hugging Face Hub with its CDN on loopback; huggingface_hub, hftransfer and other
clients work with it unmodified. S3 servers are in `hftransfer.testing.s3`. `OutageProxy` makes any
of them fail for a while, `DripProxy` makes connections to it trickle, and `Line` limits its speed.
`KillLoop` kills processes that transfer. `SlowFileSystem` and `no_flock` change the file systems
that this process sees. Example::

    import huggingface_hub
    from hftransfer.testing import CutBody, Fault, HubServer, RandomFile

    with HubServer() as hub:
        repo = hub.create_repo("acme/tiny", files={"config.json": b"{}"})
        repo.commit({"model.safetensors": RandomFile(64 << 20, seed=1)})
        cut = hub.add_fault(Fault(host="cdn", action=CutBody(1_000_000)))
        huggingface_hub.snapshot_download("acme/tiny", endpoint=hub.endpoint)
        assert cut.count == 1  # the download was interrupted once, and resumed
"""

from hftransfer.testing._content import Blob, RandomFile
from hftransfer.testing._drip_proxy import DripHandle, DripProxy, ProxiedRequest
from hftransfer.testing._faults import (
    CorruptByte,
    CutBody,
    Drip,
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
from hftransfer.testing._file_systems import SlowFileSystem, no_flock
from hftransfer.testing._kills import KillLoop, KillOutcome, copy_command
from hftransfer.testing._line import Line
from hftransfer.testing._outage_proxy import Outage, OutageHandle, OutageProxy, Refuse
from hftransfer.testing._repositories import Commit, Repo
from hftransfer.testing._request_log import RequestRecord
from hftransfer.testing._responses import Request
from hftransfer.testing.hub import HubServer

__all__ = [
    "Blob",
    "Commit",
    "CorruptByte",
    "CutBody",
    "Drip",
    "DripHandle",
    "DripProxy",
    "ExpireUrls",
    "Fault",
    "FaultHandle",
    "HubServer",
    "IgnoreRange",
    "KillLoop",
    "KillOutcome",
    "Line",
    "Outage",
    "OutageHandle",
    "OutageProxy",
    "ProxiedRequest",
    "RandomFile",
    "Redirect",
    "Refuse",
    "Repo",
    "Request",
    "RequestRecord",
    "ResetConnection",
    "SlowFileSystem",
    "Stall",
    "Status",
    "WrongRange",
    "copy_command",
    "no_flock",
]
