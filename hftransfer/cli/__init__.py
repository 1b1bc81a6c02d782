"""The command line: ``hftransfer cp``, ``download``, ``ls`` and ``verify``.

Exit codes: 0 done; 1 failed; 2 bad arguments, options or locations; 3 not found;
4 access denied; 5 the destination cannot be written; 6 wrong bytes; 130 interrupted;
143 terminated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from hftransfer.errors import (
    AccessError,
    DestinationError,
    IntegrityError,
    LocationError,
    NotFoundError,
    OptionsError,
    TransferError,
)
from hftransfer.options import HubOptions, S3Options, TransferOptions, parse_size

if TYPE_CHECKING:
    from hftransfer._core.events import Event
    from hftransfer._core.manifest import Manifest
    from hftransfer.report import Report

__all__ = ("main",)

_WRONG_BYTES = 6
_EXIT_CODES: tuple[tuple[type[TransferError], int], ...] = (
    (OptionsError, 2),
    (LocationError, 2),
    (NotFoundError, 3),
    (AccessError, 4),
    (DestinationError, 5),
    (IntegrityError, _WRONG_BYTES),
)
# A line on a terminal is redrawn at most so often, and elsewhere written so often: bytes.
_TERMINAL_STEP = 4 << 20
_LINE_STEP = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name. Default: those of the process.
    """
    from hftransfer.sync import terminable

    given = _parser().parse_args(arguments)
    try:
        with terminable():
            given.run(given)
    except KeyboardInterrupt:
        print("hftransfer: interrupted; run it again to go on where it stopped", file=sys.stderr)
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except TransferError as error:
        print(f"hftransfer: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"  {note}", file=sys.stderr)
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hftransfer",
        description="Move files between the Hugging Face Hub, S3 and local disk.",
        epilog="Locations: hf://[datasets/|spaces/]org/name[@revision][/path], "
        "s3://bucket[/key], or a path.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    cp = commands.add_parser("cp", help="copy a file, folder, prefix or repository")
    cp.add_argument("source", metavar="SRC")
    cp.add_argument("destinations", metavar="DST", nargs="+", help="one pass feeds them all")
    cp.add_argument(
        "--sidecar", action="store_true", help="write the manifest, too, for verify to find"
    )
    _add_patterns(cp)
    _add_common(cp)
    cp.set_defaults(run=_copy)

    ls = commands.add_parser("ls", help="list files with their sizes and digests")
    ls.add_argument("location", metavar="LOCATION")
    _add_common(ls)
    ls.set_defaults(run=_list)

    verify = commands.add_parser(
        "verify", help="read what is stored and compare it with what it should be"
    )
    verify.add_argument("location", metavar="LOCATION")
    said = verify.add_mutually_exclusive_group()
    said.add_argument("--manifest", metavar="FILE", help="default: the .hftransfer that lies there")
    said.add_argument("--against", metavar="LOCATION", help="such as the hf:// it was copied from")
    _add_patterns(verify)
    _add_common(verify)
    verify.set_defaults(run=_verify)

    download = commands.add_parser(
        "download", help="download a repository into huggingface_hub's cache, or a folder"
    )
    download.add_argument("repo_id", metavar="REPO")
    download.add_argument("--repo-type", choices=("model", "dataset", "space"), default="model")
    download.add_argument("--revision")
    download.add_argument("--local-dir")
    download.add_argument("--cache-dir")
    download.add_argument("--token")
    download.add_argument("--force-download", action="store_true")
    _add_patterns(download)
    download.set_defaults(run=_download)
    return parser


def _add_patterns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--include", metavar="PATTERN", action="append", help="only these paths")
    parser.add_argument("--exclude", metavar="PATTERN", action="append", help="not these paths")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--connections", type=int, help="requests in flight per direction; default: what pays"
    )
    parser.add_argument("--chunk-size", help="bytes per request, such as 16MiB")
    parser.add_argument("--bandwidth", metavar="RATE", help="bytes per second, such as 50MB")
    parser.add_argument(
        "--loops",
        type=int,
        help="event loops for large bodies; default: up to 4 with TLS, else 1",
    )
    parser.add_argument(
        "--direct-io", choices=("auto", "on", "off"), help="write past the page cache"
    )
    parser.add_argument("--endpoint", help="base URL of the Hub (HF_ENDPOINT)")
    parser.add_argument("--s3-endpoint-url", help="base URL of S3 (AWS_ENDPOINT_URL_S3)")
    parser.add_argument("--profile", help="AWS profile")
    parser.add_argument("--region", help="AWS region")
    parser.add_argument(
        "--no-sign-request", action="store_true", help="read public buckets without credentials"
    )
    parser.add_argument("--ca-bundle", help="trust these certificates for S3 (AWS_CA_BUNDLE)")
    parser.add_argument("--no-verify-ssl", action="store_true", help="trust any certificate for S3")
    parser.add_argument("--sse", metavar="NAME", help="encryption: AES256, aws:kms, aws:kms:dsse")
    parser.add_argument("--sse-kms-key-id", metavar="ID", help="which key of KMS")
    parser.add_argument("--storage-class", metavar="NAME", help="of objects that are written")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _options(given: argparse.Namespace) -> TransferOptions:
    options = TransferOptions.from_env()
    changed: dict[str, object] = {}
    for name in ("connections", "loops", "direct_io"):
        if (value := getattr(given, name)) is not None:
            changed[name] = value
    for name in ("chunk_size", "bandwidth"):
        if (text := getattr(given, name)) is not None:
            changed[name] = parse_size(text)
    return dataclasses.replace(
        options,
        hub=HubOptions(endpoint=given.endpoint),
        s3=S3Options(
            endpoint_url=given.s3_endpoint_url,
            region_name=given.region,
            profile=given.profile,
            anonymous=given.no_sign_request,
            verify=False if given.no_verify_ssl else given.ca_bundle,
            server_side_encryption=given.sse,
            kms_key_id=given.sse_kms_key_id,
            storage_class=given.storage_class,
        ),
        **changed,  # type: ignore[arg-type]
    )


def _copy(given: argparse.Namespace) -> None:
    from hftransfer.sync import Client

    progress = _Progress(sys.stderr, quiet=given.json)
    with progress, Client(_options(given), observer=progress) as client:
        report = client.copy(
            given.source,
            given.destinations,
            allow_patterns=given.include,
            ignore_patterns=given.exclude,
            sidecar=given.sidecar,
        )
    print(json.dumps(report.to_dict()) if given.json else _summary(report))


def _list(given: argparse.Namespace) -> None:
    from hftransfer.sync import Client

    with Client(_options(given)) as client:
        entries = client.list(given.location)
    if given.json:
        rows = [
            {
                "path": entry.path,
                "size": entry.size,
                "digest": str(entry.digest or ""),
                "etag": entry.etag,
            }
            for entry in entries
        ]
        print(json.dumps(rows))
        return
    for entry in entries:
        print(f"{entry.size:>14}  {entry.path}")


def _verify(given: argparse.Namespace) -> None:
    from hftransfer.sync import Client

    manifest = None if given.manifest is None else _read_manifest(given.manifest)
    progress = _Progress(sys.stderr, quiet=given.json)
    with progress, Client(_options(given), observer=progress) as client:
        found = client.verify(
            given.location,
            manifest=manifest,
            against=given.against,
            allow_patterns=given.include,
            ignore_patterns=given.exclude,
        )
    if given.json:
        print(json.dumps(found.to_dict()))
    else:
        for path, problem in found.wrong.items():
            print(f"wrong    {path}: {problem}")
        for path in found.missing:
            print(f"missing  {path}")
        parts = [f"{found.files} files are right"]
        parts += [f"{len(found.wrong)} wrong"] if found.wrong else []
        parts += [f"{len(found.missing)} missing"] if found.missing else []
        parts += [f"{len(found.unchecked)} not known"] if found.unchecked else []
        print(f"{', '.join(parts)}, {_human(found.bytes)} read, by {found.against}")
    if not found.ok:
        raise SystemExit(_WRONG_BYTES)


def _read_manifest(path: str) -> Manifest:
    from hftransfer._core.manifest import Manifest

    try:
        with open(path, "rb") as file:
            return Manifest.from_dict(json.load(file))
    except OSError as error:
        raise NotFoundError(f"cannot read the manifest {path}: {error.strerror}") from error
    except ValueError as error:
        raise IntegrityError(f"{path} is not a manifest: {error}") from error


def _download(given: argparse.Namespace) -> None:
    from hftransfer._hub_compat.sync_download import snapshot_download

    print(
        snapshot_download(
            given.repo_id,
            repo_type=given.repo_type,
            revision=given.revision,
            local_dir=given.local_dir,
            cache_dir=given.cache_dir,
            token=given.token,
            force_download=given.force_download,
            allow_patterns=given.include,
            ignore_patterns=given.exclude,
        )
    )


def _summary(report: Report) -> str:
    moved = report.bytes + report.reused_bytes + report.server_side_bytes
    parts = [f"{report.files} files, {_human(moved)}"]
    if report.skipped:
        parts.append(f"{report.skipped} already there")
    if report.reused_bytes:
        parts.append(f"{_human(report.reused_bytes)} resumed")
    if report.server_side_bytes:
        parts.append("copied by the store")
    rate = moved / report.seconds if report.seconds else 0.0
    parts.append(f"{report.seconds:.1f} s ({_human(rate)}/s)")
    if report.retries:
        parts.append(f"{report.retries} retries")
    return ", ".join(parts)


def _human(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


class _Progress:
    """An observer that writes one redrawn line on a terminal, plain lines elsewhere."""

    def __init__(self, out: TextIO, *, quiet: bool) -> None:
        self._out = out
        self._quiet = quiet
        self._terminal = out.isatty()
        self._total = 0
        self._moved = 0
        self._shown = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._terminal and self._shown:
            self._out.write("\n")
            self._out.flush()

    def __call__(self, event: Event) -> None:
        from hftransfer._core.events import BytesMoved, Retrying, TransferStarted

        if isinstance(event, TransferStarted):
            self._total = event.bytes
        elif isinstance(event, BytesMoved):
            self._moved += event.bytes
            self._show()
        elif isinstance(event, Retrying) and not self._quiet and not self._terminal:
            self._out.write(f"{event.path}: {event.error}; again in {event.delay:.1f} s\n")
            self._out.flush()

    def _show(self) -> None:
        step = _TERMINAL_STEP if self._terminal else self._total * _LINE_STEP
        if self._quiet or (abs(self._moved - self._shown) < step and self._moved < self._total):
            return
        self._shown = self._moved
        percent = 100 * self._moved // self._total if self._total else 100
        line = f"{percent:3d} %  {_human(self._moved)} of {_human(self._total)}"
        self._out.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        self._out.flush()
