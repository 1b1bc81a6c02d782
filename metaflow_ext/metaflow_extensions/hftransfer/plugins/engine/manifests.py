"""The documents that say which files a stored checkpoint has, and where they are kept. Pure.

The manifest of ``<prefix>/checkpoints/artifacts/<key>`` is the JSON document
``<prefix>/checkpoints/manifests/<key>.json``, and likewise for models. metaflow-checkpoint
neither lists nor reads that folder. It is the engine's manifest (XXH3-128 of every chunk,
the Hub's digest of every file). Where the engine could not be used it is the shorter form
``hftransfer-digests``, which has the sizes and the Hub's digests only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MANIFEST = "hftransfer-manifest"
DIGESTS = "hftransfer-digests"

_ARTIFACTS = re.compile(r"(?:^|/)(?:checkpoints|models)/(artifacts)/")
# Metadata of huggingface_hub, which metaflow-checkpoint stores along with the files.
_HUB_METADATA = (".cache/huggingface/", ".huggingface/")


def manifest_path(key: str) -> str | None:
    """Return the path of the manifest of the artifact `key`; None if it is no artifact.

    Both are relative to the root of the datastore.
    """
    found = _ARTIFACTS.search(key)
    if found is None:
        return None
    return f"{key[: found.start(1)]}manifests{key[found.end(1) :]}.json"


def metadata_path(key: str) -> str:
    """Return the path of metaflow-checkpoint's metadata of the artifact `key`.

    Both are relative to the root of the datastore. The metadata is written last, so an
    artifact without it is not published.
    """
    return key.replace("/artifacts/", "/artifact_metadata/", 1) + ".metadata"


def is_hub_metadata(path: str) -> bool:
    """Return True if `path`, relative to a repository's root, is huggingface_hub's metadata."""
    return path.startswith(_HUB_METADATA)


def is_manifest(document: object) -> bool:
    """Return True if `document` is the engine's manifest, with the digests of all chunks."""
    return isinstance(document, Mapping) and document.get("format") == MANIFEST


def digests_document(
    files: Mapping[str, tuple[int, str | None]], *, source: str, commit: str | None
) -> dict[str, Any]:
    """Return the short form of a manifest.

    Parameters
    ----------
    files : Mapping
        From path to size in bytes and the Hub's digest (``sha256:…`` or ``git-sha1:…``).
    source : str
        ``hf://…``
    commit : str, optional
    """
    return {
        "format": DIGESTS,
        "version": 1,
        "source": source,
        "commit": commit,
        "files": {path: {"size": size, "digest": digest} for path, (size, digest) in files.items()},
    }


def recorded_files(document: object) -> dict[str, tuple[int, str | None]] | None:
    """Return size and digest of each file that a manifest, of either form, names.

    None if `document` is not a manifest.
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
