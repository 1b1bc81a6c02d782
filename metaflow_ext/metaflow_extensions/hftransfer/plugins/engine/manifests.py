"""What is known of a stored checkpoint's files, and where that is kept. Pure.

The manifest of ``<prefix>/checkpoints/artifacts/<key>`` is the JSON document
``<prefix>/checkpoints/manifests/<key>.json``, and likewise for models: a folder that
metaflow-checkpoint neither lists nor reads. It is the engine's manifest (XXH3-128 of every
chunk, the Hub's digest of every file); where the engine could not run it is the shorter
form ``hftransfer-digests``, which has sizes and the Hub's digests alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MANIFEST = "hftransfer-manifest"
DIGESTS = "hftransfer-digests"

_ARTIFACTS = re.compile(r"(?:^|/)(?:checkpoints|models)/(artifacts)/")
# Bookkeeping of huggingface_hub, which metaflow-checkpoint stores along with the files.
_BOOKKEEPING = (".cache/huggingface/", ".huggingface/")


def manifest_path(key: str) -> str | None:
    """Return the path of the manifest of the artifact `key`; None if `key` is of another kind.

    Both are relative to the root of the datastore.
    """
    found = _ARTIFACTS.search(key)
    if found is None:
        return None
    return f"{key[: found.start(1)]}manifests{key[found.end(1) :]}.json"


def is_bookkeeping(path: str) -> bool:
    """Return True if `path`, relative to a repository's root, is no file of the repository."""
    return path.startswith(_BOOKKEEPING)


def digests_document(
    files: Mapping[str, tuple[int, str | None]], *, source: str, commit: str | None
) -> dict[str, Any]:
    """Return the short form: size and the Hub's digest (``sha256:…``) of each file."""
    return {
        "format": DIGESTS,
        "version": 1,
        "source": source,
        "commit": commit,
        "files": {path: {"size": size, "digest": digest} for path, (size, digest) in files.items()},
    }


def known_files(document: object) -> dict[str, tuple[int, str | None]] | None:
    """Return size and digest of each file that `document`, of either form, names.

    None if it is not such a document.
    """
    try:
        if not isinstance(document, Mapping) or document["format"] not in (MANIFEST, DIGESTS):
            return None
        return {
            str(path): (int(file["size"]), file["digest"])
            for path, file in document["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
