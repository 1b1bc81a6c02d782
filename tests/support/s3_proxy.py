"""A front before a real S3 server: what a script does not answer goes through to it."""

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

MIB = 1 << 20
Hook = Callable[[web.Request], Awaitable["web.StreamResponse | None"]]


@asynccontextmanager
async def proxy_for(
    bucket: Bucket, hook: Hook, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve `bucket`'s server again; `hook` may answer in its place, or see what passes."""

    async def forward(request: web.Request) -> web.StreamResponse:
        if (answer := await hook(request)) is not None:
            return answer
        url = URL(bucket.server.endpoint + request.raw_path, encoded=True)
        async with session.request(
            request.method,
            url,
            headers=request.headers,
            data=io.BytesIO(await request.read()),
            allow_redirects=False,
        ) as backend:
            body = b"" if request.method == "HEAD" else await backend.read()
            headers = backend.headers.copy()
            headers.popall("Transfer-Encoding", None)
            if request.method != "HEAD":
                headers.popall("Content-Length", None)
            return web.Response(status=backend.status, headers=headers, body=body)

    app = web.Application(client_max_size=64 * MIB)
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"{'https' if tls else 'http'}://{host}:{port}"
        finally:
            await runner.cleanup()


def xml_error(status: int, code: str, message: str = "scripted", **headers: str) -> web.Response:
    """Answer as S3 refuses."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, text=body, content_type="application/xml", headers=named)
