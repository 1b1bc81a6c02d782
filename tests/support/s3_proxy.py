"""A proxy in front of a real S3 server, with scripted responses to chosen requests."""

from __future__ import annotations

import io
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

from support.s3 import Bucket

__all__ = ("Hook", "proxy_for", "xml_error")

_MAX_BODY = 64 << 20  # bytes of a request

Hook = Callable[[web.Request], Awaitable["web.StreamResponse | None"]]
"""Called with every request. It returns the response, or None to forward the request."""


@asynccontextmanager
async def proxy_for(
    bucket: Bucket, hook: Hook, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Run a proxy in front of the server of `bucket`; yields its endpoint URL.

    Args:
        bucket: on the server that requests are forwarded to.
        hook: observes requests and may respond to them.
        tls: serves https with this context; None for http.
    """
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", _Proxy(bucket, hook, session).respond)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"{'https' if tls else 'http'}://{host}:{port}"
        finally:
            await runner.cleanup()


class _Proxy:
    def __init__(self, bucket: Bucket, hook: Hook, session: aiohttp.ClientSession) -> None:
        self._bucket = bucket
        self._hook = hook
        self._session = session

    async def respond(self, request: web.Request) -> web.StreamResponse:
        scripted = await self._hook(request)
        return await self._forward(request) if scripted is None else scripted

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        """Send `request` to the server unchanged, so that its signature stays valid."""
        url = URL(self._bucket.server.endpoint + request.raw_path, encoded=True)
        async with self._session.request(
            request.method,
            url,
            headers=request.headers,
            data=io.BytesIO(await request.read()),
            allow_redirects=False,
        ) as response:
            body = b"" if request.method == "HEAD" else await response.read()
            headers = response.headers.copy()
            headers.popall("Transfer-Encoding", None)
            if request.method != "HEAD":
                headers.popall("Content-Length", None)
            return web.Response(status=response.status, headers=headers, body=body)


def xml_error(status: int, code: str, message: str = "scripted", **headers: str) -> web.Response:
    """Return an error response of S3.

    Args:
        status: HTTP status.
        code: S3 error code.
        message: for people.
        headers: names with underscores in place of hyphens.
    """
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, text=body, content_type="application/xml", headers=named)
