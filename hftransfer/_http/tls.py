"""The TLS context of a client, and what a user can do about a certificate it does not trust."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from hftransfer.errors import OptionsError, RejectedError

__all__ = ("ENVIRONMENT_BUNDLES", "TrustedCertificates")

ENVIRONMENT_BUNDLES = "REQUESTS_CA_BUNDLE or SSL_CERT_FILE"
"""The variables that every client reads unless a bundle is named."""


class TrustedCertificates:
    """The certificates that a client trusts. Nothing is read before `context` is called.

    Args:
        verify: None or True for the system's certificates (or ``SSL_CERT_FILE``,
            ``SSL_CERT_DIR``) and those of ``REQUESTS_CA_BUNDLE``; False for no verification; or
            the path of a CA bundle, or of a folder of certificates as ``openssl rehash`` makes it.
        setting: what the user sets to change `verify`, for messages.
    """

    def __init__(
        self, verify: bool | str | None = None, *, setting: str = ENVIRONMENT_BUNDLES
    ) -> None:
        self._verify = verify
        self._setting = setting
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context; the first call reads the certificates.

        Raises:
            OptionsError: if a bundle that the options or the environment name cannot be used.
        """
        if self._context is None:
            self._context = self._load()
        return self._context

    def _load(self) -> ssl.SSLContext:
        if isinstance(self._verify, str):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _load_bundle(context, self._verify, self._setting)
            return context
        context = ssl.create_default_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR
        if self._verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        # OpenSSL itself ignores an SSL_CERT_FILE that it cannot read.
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            if path := os.environ.get(variable):
                _load_bundle(context, path, variable)
        return context

    def untrusted(self, authority: str, reason: object) -> RejectedError:
        """Return the error for a certificate that is not trusted.

        Args:
            authority: host and port of the server that presented it.
            reason: of the verification's failure.
        """
        message = f"the certificate of {authority} is not trusted ({reason}); "
        if isinstance(self._verify, str):
            return RejectedError(
                f"{message}only the CA bundle {self._verify} counts here ({self._setting}): "
                "name one that contains the server's CA"
            )
        return RejectedError(f"{message}name its CA bundle in {self._setting}")


def _load_bundle(context: ssl.SSLContext, path: str, setting: str) -> None:
    """Add the certificates of a file or folder to those that `context` trusts."""
    _check_readable(path, setting)
    try:
        if Path(path).is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise OptionsError(
            f"the CA bundle {path} ({setting}) holds no certificate in PEM format"
        ) from error


def _check_readable(path: str, setting: str) -> None:
    """Raise OptionsError if `path`, which `setting` names, cannot be read."""
    try:
        if not Path(path).is_dir():
            with Path(path).open("rb"):
                return
        next(Path(path).iterdir(), None)
    except OSError as error:
        raise OptionsError(
            f"the CA bundle {path} ({setting}) cannot be read: {error.strerror}"
        ) from error
