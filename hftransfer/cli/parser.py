"""The arguments of the command line, with their help."""

from __future__ import annotations

import argparse

from hftransfer.cli import commands

__all__ = ("make_parser",)

_EPILOG = """\
Locations:
  hf://[datasets/|spaces/]namespace/name[@revision][/path]
  s3://bucket[/key]
  a local path

Exit codes (download: 1 for every exception of huggingface_hub, such as a missing repository):
  0 success                              4 access denied
  1 other failure                        5 the destination cannot be written
  2 invalid arguments or locations       6 the content is wrong
  3 not found                            130 interrupted, 143 terminated
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; the namespace it returns has `run`, the function of the command."""
    parser = argparse.ArgumentParser(
        prog="hftransfer",
        description="Move files between the Hugging Face Hub, S3 and local disk.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_cp(subparsers)
    _add_ls(subparsers)
    _add_verify(subparsers)
    _add_download(subparsers)
    return parser


def _add_cp(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "copy a file, folder, prefix or repository"
    cp = subparsers.add_parser("cp", help=text, description=_sentence(text))
    cp.add_argument("source", metavar="SRC", help="location to read")
    cp.add_argument(
        "destinations",
        metavar="DST",
        nargs="+",
        help="location to write: S3 or a local path; SRC is read once for all of them",
    )
    cp.add_argument(
        "--sidecar",
        action="store_true",
        help="also write a manifest of the copy to each DST, as .hftransfer in a folder or "
        "NAME.hftransfer beside a file; verify uses it",
    )
    cp.add_argument(
        "--on-bad-name",
        choices=("fail", "skip"),
        default="fail",
        help="what to do with names that a DST cannot write, such as the key a//b for a local "
        "folder: fail before anything is copied, or skip them (default: fail)",
    )
    _add_patterns(cp, "copy")
    _add_common(cp)
    cp.set_defaults(run=commands.cp)


def _add_ls(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "list files and their sizes; with --json, their digests too"
    ls = subparsers.add_parser("ls", help=text, description=_sentence(text))
    ls.add_argument("location", metavar="LOCATION", help="location to list")
    _add_common(ls)
    ls.set_defaults(run=commands.ls)


def _add_verify(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "read files and compare them with their recorded digests"
    verify = subparsers.add_parser("verify", help=text, description=_sentence(text))
    verify.add_argument("location", metavar="LOCATION", help="location to verify")
    expected = verify.add_mutually_exclusive_group()
    expected.add_argument(
        "--manifest",
        metavar="FILE",
        help="manifest to compare with (default: the .hftransfer stored with the files, else the "
        "digests of the store)",
    )
    expected.add_argument(
        "--against",
        metavar="LOCATION",
        help="location to compare with by its digests, such as the hf:// it was copied from",
    )
    _add_patterns(verify, "verify")
    _add_common(verify)
    verify.set_defaults(run=commands.verify)


def _add_download(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "download a repository to huggingface_hub's cache or to a folder"
    download = subparsers.add_parser("download", help=text, description=_sentence(text))
    download.add_argument("repo_id", metavar="REPO", help="repository, such as namespace/name")
    download.add_argument(
        "--repo-type",
        choices=("model", "dataset", "space"),
        default="model",
        help="default: model",
    )
    download.add_argument("--revision", help="branch, tag or commit (default: main)")
    download.add_argument(
        "--local-dir", metavar="FOLDER", help="download to this folder instead of the cache"
    )
    download.add_argument(
        "--cache-dir", metavar="FOLDER", help="huggingface_hub's cache (default: HF_HUB_CACHE)"
    )
    download.add_argument(
        "--token", help="access token (default: HF_TOKEN, or the one stored by `hf auth login`)"
    )
    download.add_argument(
        "--force-download",
        action="store_true",
        help="download also files that are already present",
    )
    _add_patterns(download, "download")
    download.set_defaults(run=commands.download)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _add_patterns(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        help=f"{verb} only paths that match this glob pattern, such as '*.json'; may be repeated",
    )
    parser.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        help=f"do not {verb} paths that match this glob pattern; may be repeated",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that `cp`, `ls` and `verify` share."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_transfer_options(parser)
    hub = parser.add_argument_group("Hugging Face Hub")
    hub.add_argument(
        "--endpoint",
        metavar="URL",
        help="base URL of the Hub (default: HF_ENDPOINT, else https://huggingface.co)",
    )
    _add_s3_options(parser)


def _add_transfer_options(parser: argparse.ArgumentParser) -> None:
    transfer = parser.add_argument_group(
        "transfer",
        "Environment variables of the same names set them too: HFTRANSFER_CONNECTIONS, "
        "HFTRANSFER_CHUNK_SIZE etc.",
    )
    transfer.add_argument(
        "--connections",
        metavar="N",
        type=int,
        help="requests in flight per direction (default: adapts to the measured throughput, 16 "
        "to 64)",
    )
    transfer.add_argument(
        "--chunk-size", metavar="SIZE", help="bytes per request, such as 16MiB (default: 8MiB)"
    )
    transfer.add_argument(
        "--bandwidth",
        metavar="RATE",
        help="maximum bytes per second, such as 50MB (default: unlimited)",
    )
    transfer.add_argument(
        "--loops",
        metavar="N",
        type=int,
        help="event loops for large files (default: with TLS one per core, at most 4; without "
        "TLS 1)",
    )
    transfer.add_argument(
        "--direct-io",
        choices=("auto", "on", "off"),
        help="write local files with O_DIRECT, bypassing the page cache (default: auto)",
    )


def _add_s3_options(parser: argparse.ArgumentParser) -> None:
    s3 = parser.add_argument_group(
        "S3", "Defaults are those of the AWS configuration: AWS_* variables and files."
    )
    s3.add_argument(
        "--s3-endpoint-url", metavar="URL", help="base URL of the store (AWS_ENDPOINT_URL_S3)"
    )
    s3.add_argument("--profile", metavar="NAME", help="AWS profile (AWS_PROFILE)")
    s3.add_argument("--region", metavar="NAME", help="AWS region (AWS_REGION)")
    s3.add_argument(
        "--no-sign-request", action="store_true", help="read public buckets without credentials"
    )
    s3.add_argument(
        "--ca-bundle", metavar="FILE", help="CA certificates to trust for S3 (AWS_CA_BUNDLE)"
    )
    s3.add_argument(
        "--no-verify-ssl", action="store_true", help="accept any TLS certificate of the S3 endpoint"
    )
    s3.add_argument(
        "--sse",
        metavar="NAME",
        help="server-side encryption of written objects: AES256, aws:kms or aws:kms:dsse "
        "(default: the bucket's)",
    )
    s3.add_argument(
        "--sse-kms-key-id", metavar="ID", help="KMS key to encrypt with (default: the account's)"
    )
    s3.add_argument(
        "--storage-class",
        metavar="NAME",
        help="storage class of written objects, such as STANDARD_IA (default: the store's)",
    )
