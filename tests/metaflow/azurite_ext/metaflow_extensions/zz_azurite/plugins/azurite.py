"""Credentials for azurite, the emulator of Azure's blob storage.

With ``--oauth basic`` it checks the claims of a token, and not its signature.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any, NamedTuple


class Token(NamedTuple):
    """A token and when it expires, in seconds since the epoch."""

    token: str
    expires_on: int


class Credential:
    """Azure's interface for credentials; Metaflow uses it as a key of its cache of clients."""

    def get_token(self, *scopes: str, **options: Any) -> Token:
        """Return a token with the claims that azurite checks."""
        now = int(time.time())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + 3600,
        }
        parts = ({"alg": "HS256", "typ": "JWT"}, claims, "none")
        encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
        return Token(b".".join(part.rstrip(b"=") for part in encoded).decode(), now + 3600)

    def __hash__(self) -> int:
        return hash("azurite")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential)


class AzuriteClientProvider:
    """Metaflow's interface for credentials."""

    name = "azurite"

    @staticmethod
    def create_cacheable_azure_credential() -> Credential:
        """Return the credential."""
        return Credential()
