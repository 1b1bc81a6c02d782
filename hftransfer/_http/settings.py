"""What the environment says of connections: proxies and certificates."""

from __future__ import annotations

import os
import ssl
import sys
from urllib.parse import urlsplit

__all__ = ("Proxies", "tls_context")


class Proxies:
    """Which proxy the environment names for which URL (``HTTPS_PROXY``, ``NO_PROXY``)."""

    def __init__(self) -> None:
        self._named: dict[tuple[str, str], str | None] = {}
        self._any: bool | None = None

    def find(self, url: str) -> str | None:
        """Return the proxy for `url`, or None."""
        if self._any is None:
            # urllib takes longer to load than most environments need it.
            self._any = sys.platform == "darwin" or any(
                name[-6:].lower() == "_proxy" and text for name, text in os.environ.items()
            )
        if not self._any:
            return None
        parts = urlsplit(url)
        where = (parts.scheme, parts.hostname or "")
        if where not in self._named:
            from urllib.request import getproxies, proxy_bypass

            bypassed = proxy_bypass(where[1])
            self._named[where] = None if bypassed else getproxies().get(where[0])
        return self._named[where]


def tls_context(verify: bool | str | None) -> ssl.SSLContext:
    """Return the context that a store's ``verify`` option asks for."""
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    context = ssl.create_default_context()  # heeds SSL_CERT_FILE and SSL_CERT_DIR
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        context.load_verify_locations(cafile=bundle)
    return context
