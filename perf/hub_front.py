"""nginx in front of the Hub server: small files are answered from the disk, as the Hub does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from hftransfer.testing import Blob, HubServer, Repo
from perf.nginx import Nginx, start_nginx

__all__ = ("start_front",)

_HTTP = """
    map $uri $target {{ default ""; include {root}/targets; }}
    map $uri $blob_etag {{ default ""; include {root}/etags; }}
    upstream hub {{ server {upstream}; keepalive 16; }}"""

_SERVER = """
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        default_type "text/plain; charset=utf-8";
        location / {{ proxy_pass http://hub; }}
        location {resolve}/ {{
            if ($target) {{
                add_header X-Repo-Commit {commit};
                {limits}
                return 307 $target;
            }}
            proxy_pass http://hub;
        }}
        location {cache}/ {{
            alias {payload}/;
            add_header ETag $blob_etag;
            add_header X-Repo-Commit {commit};
            {limits}
        }}"""

_LIMITS = """add_header RateLimit '"resolvers";r=2999;t=300';
            add_header RateLimit-Policy '"fixed window";"resolvers";q=3000;w=300';"""


@contextmanager
def start_front(root: Path, server: HubServer, repo: Repo, payload: Path) -> Iterator[Nginx]:
    """Run an nginx that answers `resolve` and `resolve-cache` of regular files itself.

    Everything else is passed on to the Hub server.

    Args:
        root: for all that nginx needs; what is there is removed.
        server: the Hub.
        repo: whose `main` is served.
        payload: folder of its files.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    commit = repo.find("main")
    regular = {path: blob for path, blob in commit.files.items() if not blob.is_lfs}
    places = {
        "resolve": f"/{repo.repo_id}/resolve/{commit.id}",
        "cache": f"/api/resolve-cache/models/{repo.repo_id}/{commit.id}",
    }
    _write_maps(root, regular, **places)
    upstream = server.own_endpoint.partition("//")[2]
    http = _HTTP.format(root=root, upstream=upstream)
    own = _SERVER.format(commit=commit.id, payload=payload, limits=_LIMITS, **places)
    with start_nginx(root / "nginx", own, http=http) as nginx:
        yield nginx


def _write_maps(root: Path, files: dict[str, Blob], *, resolve: str, cache: str) -> None:
    """Write where `resolve` leads and the ETag of what is there, one line a file."""
    targets, etags = [], []
    for path, blob in files.items():
        asked = quote(f"{resolve}/{quote(path)}", safe="")
        target = f"{quote(f'{cache}/{path}')}?{asked}=&etag=%22{blob.etag}%22"
        targets.append(f'"{resolve}/{path}" "{target}";\n')
        etags.append(f'"{cache}/{path}" \'"{blob.etag}"\';\n')
    (root / "targets").write_text("".join(targets))
    (root / "etags").write_text("".join(etags))
