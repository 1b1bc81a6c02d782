"""hftransfer with one adaptive controller switched off.

Usage: ``hftransfer_ablated.py SPEC [--without NAME]``, with a name of `ABLATIONS`. The run is
the one of the tool hftransfer: ``snapshot_download`` into a directory for the Hub, and
``hftransfer cp`` for S3.

Where a public option switches a controller off, the ablation is an environment variable, which
the benchmark sets. Otherwise it replaces an attribute of a private module in this process. This
is the only place in `perf` that names private modules; `tests/perf/test_ablation.py` checks that
all of them exist.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

__all__ = ("ABLATIONS", "Ablation", "Patch", "find_target")


@dataclass(frozen=True)
class Patch:
    """An attribute to replace.

    Attributes:
        module: full name of the module.
        attribute: name in the module, or ``Class.name``.
        replacement: its new value. A function replaces a method or a function.
    """

    module: str
    attribute: str
    replacement: Any


@dataclass(frozen=True)
class Ablation:
    """One controller, and how to switch it off.

    Attributes:
        name: on the command line.
        effect: what hftransfer does without it.
        scenarios: those in which the controller can make a difference.
        environ: environment variables that switch it off.
        patches: attributes to replace.
    """

    name: str
    effect: str
    scenarios: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()


def _return_none(*_: object, **__: object) -> None:
    return None


def _return_nothing(*_: object, **__: object) -> tuple[()]:
    return ()


def _return_false(*_: object, **__: object) -> bool:
    return False


def _return_empty(*_: object, **__: object) -> list[Any]:
    return []


_DOWNLOADS = ("hub-large", "hub-throttled", "s3-get-large")

ABLATIONS = (
    Ablation(
        "concurrency",
        "16 connections, instead of a number that follows the throughput",
        (*_DOWNLOADS, "hub-small", "s3-get-small", "s3-put-large"),
        environ={"HFTRANSFER_CONNECTIONS": "16"},
    ),
    Ablation(
        "chunk-pieces",
        "each chunk is read over one connection, unless its tail is shared",
        _DOWNLOADS,
        patches=(Patch("hftransfer._engine.scheduler", "DownloadScheduler._cut", _return_empty),),
    ),
    Ablation(
        "tail-sharing",
        "idle connections do not take over a part of the last chunks",
        _DOWNLOADS,
        patches=(Patch("hftransfer._engine.scheduler", "select_split", _return_none),),
    ),
    Ablation(
        "stuck-replacement",
        "a connection that delivers almost nothing is not replaced",
        ("hub-throttled",),
        patches=(Patch("hftransfer._engine.duplicates", "select_hedges", _return_nothing),),
    ),
    Ablation(
        "direct-io",
        "writes always go through the page cache",
        ("hub-large", "s3-get-large"),
        environ={"HFTRANSFER_DIRECT_IO": "off"},
    ),
    Ablation(
        "rcvlowat",
        "SO_RCVLOWAT is not set: the event loop wakes up for every segment",
        (*_DOWNLOADS, "hub-large-tls"),
        patches=(Patch("hftransfer._http.rcvlowat", "LowWaterMark.adjust", _return_false),),
    ),
    Ablation(
        "tls-loops",
        "one event loop, also with TLS",
        ("hub-large-tls",),
        environ={"HFTRANSFER_LOOPS": "1"},
    ),
    Ablation(
        "quick-calls",
        "all file system calls of small files run in a worker thread",
        ("hub-small", "s3-get-small"),
        patches=(Patch("hftransfer._io.thread_batch", "_CAN_COUNT_BLOCKING", False),),
    ),
    Ablation(
        "call-batches",
        "each wake-up of the worker thread runs one call",
        ("hub-small", "s3-get-small"),
        patches=(Patch("hftransfer._io.thread_batch", "_BATCH_MAX", 1),),
    ),
    Ablation(
        "url-guess",
        "the URL of every small file is requested from the Hub",
        ("hub-small",),
        patches=(Patch("hftransfer.stores.hub.url_guess", "UrlGuesser.guess", _return_none),),
    ),
    Ablation(
        "hedging",
        "a slow part is not sent a second time",
        ("s3-put-large",),
        patches=(
            Patch("hftransfer.stores.s3.hedging", "HedgeTimer.late_after", property(_return_none)),
        ),
    ),
)
"""Every adaptive controller."""


def find_target(patch: Patch) -> tuple[Any, str]:
    """Return the object that has the attribute of a patch, and the attribute's own name.

    Raises:
        LookupError: the module or the attribute does not exist.
    """
    *owners, name = patch.attribute.split(".")
    try:
        owner: Any = import_module(patch.module)
        for each in owners:
            owner = getattr(owner, each)
        getattr(owner, name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"{patch.module}:{patch.attribute} does not exist") from error
    return owner, name


def _apply(name: str) -> None:
    ablation = next(each for each in ABLATIONS if each.name == name)
    for patch in ablation.patches:
        setattr(*find_target(patch), patch.replacement)


def main() -> int:
    """Apply the ablation and run the transfer."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    if sys.argv[2:3] == ["--without"]:
        _apply(sys.argv[3])
    if "repo_id" in spec:
        import hftransfer

        hftransfer.snapshot_download(
            spec["repo_id"], local_dir=spec["destination"], endpoint=spec["endpoint"]
        )
        return 0
    from hftransfer.cli import main as hftransfer_main

    download = [f"s3://{spec['bucket']}/{spec['prefix']}", spec["folder"]]
    is_download = spec["direction"] == "get"
    return hftransfer_main(["cp", "--json", *(download if is_download else download[::-1])])


if __name__ == "__main__":
    sys.exit(main())
