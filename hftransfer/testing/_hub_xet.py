"""How the Hub tells clients that files lie in Xet storage: hashes, links and tokens for its CAS.

The content-addressed store itself is another server. Who does not speak its protocol is served
by the CDN as before.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from hftransfer.testing._responses import Answer, json_answer

if TYPE_CHECKING:
    from hftransfer.testing._content import Blob
    from hftransfer.testing._repositories import Commit, Repo

_TOKEN_SECONDS = 3600


@dataclass(frozen=True)
class XetStorage:
    """The files that lie in one content-addressed store.

    Attributes:
        cas_url: Base URL of the store.
        hashes: Xet hash (64 hex digits) of each file's content by its sha256.
    """

    cas_url: str
    hashes: Mapping[str, str]
    _token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def hash_of(self, blob: Blob) -> str | None:
        """Return the Xet hash of a content, or `None` if it does not lie there."""
        return self.hashes.get(blob.sha256) if blob.is_lfs else None

    def headers(self, endpoint: str, repo: Repo, commit: Commit, blob: Blob) -> dict[str, str]:
        """Return what `resolve` says besides of a file; nothing if it does not lie there."""
        xet_hash = self.hash_of(blob)
        if xet_hash is None:
            return {}
        route = f"api/{repo.repo_type}s/{quote(repo.repo_id)}/xet-read-token/{commit.id}"
        return {
            "X-Xet-Hash": xet_hash,
            "Link": f'<{endpoint}/{route}>; rel="xet-auth", '
            f'<{self.cas_url}/v1/reconstructions/{xet_hash}>; rel="xet-reconstruction-info"',
        }

    def token_answer(self, commit: Commit) -> Answer:
        """Return a token for the store, with the time at which it expires."""
        expires = int(time.time()) + _TOKEN_SECONDS
        return json_answer(
            {"accessToken": self._token, "exp": expires, "casUrl": self.cas_url},
            headers={
                "X-Repo-Commit": commit.id,
                "X-Xet-Cas-Url": self.cas_url,
                "X-Xet-Access-Token": self._token,
                "X-Xet-Token-Expiration": str(expires),
            },
        )
