"""What the Hub announces about files in Xet storage: hashes, links and access tokens.

The content-addressed store (CAS) itself is another server. Clients that do not support the Xet
protocol download from the CDN.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from hftransfer.testing._responses import Response, json_response

if TYPE_CHECKING:
    from hftransfer.testing._content import Blob
    from hftransfer.testing._repositories import Commit, Repo

# Lifetime of an access token, seconds.
_TOKEN_SECONDS = 3600


@dataclass(frozen=True)
class XetStorage:
    """The files in one content-addressed store.

    Attributes:
        cas_url: base URL of the store.
        hashes: Xet hash (64 hex digits) of each file's content by its sha256.
    """

    cas_url: str
    hashes: Mapping[str, str]
    _token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def hash_of(self, blob: Blob) -> str | None:
        """Return the Xet hash of a content, or `None` if the store does not have it."""
        return self.hashes.get(blob.sha256) if blob.is_lfs else None

    def headers(self, endpoint: str, repo: Repo, commit: Commit, blob: Blob) -> dict[str, str]:
        """Return the additional headers of `resolve`; empty if the store does not have the file."""
        xet_hash = self.hash_of(blob)
        if xet_hash is None:
            return {}
        route = f"api/{repo.repo_type}s/{quote(repo.repo_id)}/xet-read-token/{commit.id}"
        return {
            "X-Xet-Hash": xet_hash,
            "Link": f'<{endpoint}/{route}>; rel="xet-auth", '
            f'<{self.cas_url}/v1/reconstructions/{xet_hash}>; rel="xet-reconstruction-info"',
        }

    def token_response(self, commit: Commit) -> Response:
        """Return the response with an access token for the store and its expiry time."""
        expires = int(time.time()) + _TOKEN_SECONDS
        return json_response(
            {"accessToken": self._token, "exp": expires, "casUrl": self.cas_url},
            headers={
                "X-Repo-Commit": commit.id,
                "X-Xet-Cas-Url": self.cas_url,
                "X-Xet-Access-Token": self._token,
                "X-Xet-Token-Expiration": str(expires),
            },
        )
