"""What each command does with its parsed arguments; each returns its exit code."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hftransfer._core.units import format_size, parse_size
from hftransfer.cli.progress import ProgressDisplay
from hftransfer.errors import IntegrityError, NotFoundError
from hftransfer.options import HubOptions, S3Options, TransferOptions

if TYPE_CHECKING:
    from hftransfer._core.manifest import Manifest
    from hftransfer.report import Report, Verification
    from hftransfer.stores.base import Entry

__all__ = ("WRONG_CONTENT", "cp", "download", "ls", "verify")

WRONG_CONTENT = 6
"""Exit code when files are wrong or missing."""


def cp(arguments: argparse.Namespace) -> int:
    """Copy; print one line of summary, or the report as JSON."""
    from hftransfer.sync import Client

    progress = ProgressDisplay(sys.stderr, quiet=arguments.json)
    with progress, Client(_options(arguments), observer=progress) as client:
        report = client.copy(
            arguments.source,
            arguments.destinations,
            allow_patterns=arguments.include,
            ignore_patterns=arguments.exclude,
            sidecar=arguments.sidecar,
            on_bad_name=arguments.on_bad_name,
        )
    print(json.dumps(report.to_dict()) if arguments.json else _summary(report))
    return 0


def ls(arguments: argparse.Namespace) -> int:
    """Print size and path of each file, or a JSON list with the digests too."""
    from hftransfer.sync import Client

    progress = ProgressDisplay(sys.stderr, quiet=arguments.json)
    with progress, Client(_options(arguments), observer=progress) as client:
        pages = client.pages(arguments.location)
        if arguments.json:
            _print_json_list(_row(entry) for page in pages for entry in page)
        else:
            for page in pages:
                for entry in page:
                    print(f"{entry.size:>14}  {entry.path}")
    return 0


def _row(entry: Entry) -> dict[str, object]:
    return {
        "path": entry.path,
        "size": entry.size,
        "digest": str(entry.digest or ""),
        "etag": entry.etag,
    }


def _print_json_list(rows: Iterable[dict[str, object]]) -> None:
    """Print a JSON list row by row: that of a large bucket does not fit into memory."""
    before = "["
    for row in rows:
        print(before, json.dumps(row), sep="", end="")
        before = ", "
    print("[]" if before == "[" else "]")


def verify(arguments: argparse.Namespace) -> int:
    """Verify; print one line per wrong or missing file and a summary, or the result as JSON."""
    from hftransfer.sync import Client

    manifest = None if arguments.manifest is None else _read_manifest(arguments.manifest)
    progress = ProgressDisplay(sys.stderr, quiet=arguments.json)
    with progress, Client(_options(arguments), observer=progress) as client:
        result = client.verify(
            arguments.location,
            manifest=manifest,
            against=arguments.against,
            allow_patterns=arguments.include,
            ignore_patterns=arguments.exclude,
        )
    if arguments.json:
        print(json.dumps(result.to_dict()))
    else:
        _print_verification(result)
    return 0 if result.ok else WRONG_CONTENT


def download(arguments: argparse.Namespace) -> int:
    """Download a repository as huggingface_hub does; print the folder it is in."""
    from hftransfer._hub_compat.sync_download import snapshot_download

    print(
        snapshot_download(
            arguments.repo_id,
            repo_type=arguments.repo_type,
            revision=arguments.revision,
            local_dir=arguments.local_dir,
            cache_dir=arguments.cache_dir,
            token=arguments.token,
            force_download=arguments.force_download,
            allow_patterns=arguments.include,
            ignore_patterns=arguments.exclude,
        )
    )
    return 0


def _options(arguments: argparse.Namespace) -> TransferOptions:
    """Return the options of the environment, changed by those of the command line."""
    changed: dict[str, object] = {}
    for name in ("connections", "loops", "direct_io"):
        if (value := getattr(arguments, name)) is not None:
            changed[name] = value
    for name in ("chunk_size", "bandwidth"):
        if (text := getattr(arguments, name)) is not None:
            changed[name] = parse_size(text)
    return dataclasses.replace(
        TransferOptions.from_env(),
        hub=HubOptions(endpoint=arguments.endpoint),
        s3=S3Options(
            endpoint_url=arguments.s3_endpoint_url,
            region_name=arguments.region,
            profile=arguments.profile,
            anonymous=arguments.no_sign_request,
            verify=False if arguments.no_verify_ssl else arguments.ca_bundle,
            server_side_encryption=arguments.sse,
            kms_key_id=arguments.sse_kms_key_id,
            storage_class=arguments.storage_class,
        ),
        **changed,  # type: ignore[arg-type]
    )


def _read_manifest(path: str) -> Manifest:
    from hftransfer._core.manifest_json import read_manifest

    try:
        with open(path, encoding="utf-8") as file:
            return read_manifest(file)
    except OSError as error:
        raise NotFoundError(f"cannot read the manifest {path}: {error.strerror}") from error
    except IntegrityError as error:
        raise IntegrityError(f"{path} is not a manifest: {error}") from error


def _summary(report: Report) -> str:
    moved = report.bytes + report.reused_bytes + report.server_side_bytes
    parts = [f"{_count(report.files, 'file', 'files')}, {format_size(moved)}"]
    if report.skipped:
        parts.append(f"{report.skipped} already present")
    if report.skipped_names:
        names = _count(report.skipped_names, "bad name", "bad names")
        parts.append(f"{names} left out")
    if report.reused_bytes:
        parts.append(f"{format_size(report.reused_bytes)} resumed")
    if report.server_side_bytes:
        parts.append("copied by the store")
    throughput = moved / report.seconds if report.seconds else 0.0
    parts.append(f"{report.seconds:.1f} s ({format_size(throughput)}/s)")
    if report.retries:
        parts.append(_count(report.retries, "retry", "retries"))
    if report.unverified:
        parts.append(f"{report.unverified} not verified (no digest to compare with)")
    if report.non_atomic:
        parts.append(f"{report.non_atomic} written after a look, not atomically")
    return ", ".join(parts)


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"


def _print_verification(result: Verification) -> None:
    for path, difference in result.wrong.items():
        print(f"wrong    {path}: {difference}")
    for path in result.missing:
        print(f"missing  {path}")
    shown = len(result.wrong) + len(result.missing)
    if further := result.wrong_count + result.missing_count - shown:
        print(f"and {further} more that are wrong or missing")
    parts = [f"{_count(result.files, 'file', 'files')} correct"]
    for count, result_name in (
        (result.wrong_count, "wrong"),
        (result.missing_count, "missing"),
        (result.unchecked_count, "unchecked"),
    ):
        parts += [f"{count} {result_name}"] if count else []
    parts += [f"{format_size(result.bytes)} read"]
    print(f"{', '.join(parts)}; compared with {result.against}")
