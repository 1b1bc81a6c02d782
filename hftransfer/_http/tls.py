"""The TLS context of a client."""

from __future__ import annotations

import os
import ssl

__all__ = ("tls_context",)


def tls_context(verify: bool | str | None) -> ssl.SSLContext:
    """Return the context for a store's ``verify`` option.

    Args:
        verify: None or True for the system's certificates (or ``SSL_CERT_FILE``,
            ``SSL_CERT_DIR``) and those of ``REQUESTS_CA_BUNDLE``, False for no verification, or
            the path of a CA bundle.
    """
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    context = ssl.create_default_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        context.load_verify_locations(cafile=bundle)
    return context
