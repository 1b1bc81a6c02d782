"""The text of the card: a line for each repository, and its details. Pure.

HTML, which Metaflow's Markdown component shows as it is. All texts are escaped. No value
contains credentials. There are no empty lines in it, because Markdown ends HTML there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.manifests import recorded_files
from metaflow_extensions.hftransfer.plugins.hub.access import (
    DATASTORE,
    DONE,
    FAILED,
    HUB,
    LOADING,
    SIBLING,
    Access,
)

_MAX_FILES = 100  # listed for each repository

STYLE = """<style>
.hfh{font-size:.875rem;line-height:1.4}
.hfh table{width:100%;border-collapse:collapse;margin:.5rem 0}
.hfh th,.hfh td{text-align:left;vertical-align:top;padding:.5rem .625rem;background:none;border:0;\
border-bottom:1px solid #e3e3e3;overflow-wrap:anywhere;white-space:normal;font-size:.8125rem}
.hfh th{color:#767676;font-weight:500;overflow-wrap:normal;white-space:nowrap}
.hfh td.n,.hfh th.n{text-align:right;white-space:nowrap}
.hfh td.w{white-space:nowrap}
.hfh td.t{overflow-wrap:break-word}
.hfh code{font-family:var(--mono-font,monospace);font-size:.75rem;background:none;padding:0}
.hfh pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#fdf1f0;\
border-left:3px solid #cf483e;margin:.5rem 0;padding:.625rem .75rem;font-size:.75rem}
.hfh .state{font-weight:600;margin:.25rem 0 .5rem}
.hfh .sub{color:#767676}
.hfh .tag{border-radius:.75rem;padding:.0625rem .5rem;font-size:.75rem;white-space:nowrap}
.hfh .hit{background:#e3f4e6;color:#1a6b2b}
.hfh .miss{background:#e8f0fd;color:#0b4fae}
.hfh .busy{background:#fdf3dc;color:#7a5200}
.hfh .bad{background:#fbe4e2;color:#a1261d}
.hfh details{border:1px solid #e3e3e3;border-radius:.375rem;margin:.5rem 0;padding:.5rem .75rem}
.hfh summary{cursor:pointer;font-weight:600;overflow-wrap:anywhere}
.hfh details th{width:9rem}
.hfh .files th{width:auto}
.container:not(.mf-card):has(>.inner>progress){padding:.75rem 1rem!important;margin:.375rem 0}
.inner:has(>progress){max-width:none!important}
.info:has(+progress){flex-wrap:wrap;gap:0 1rem;text-align:left}
.info:has(+progress) .details{font-size:12px!important;white-space:normal!important}
.marks{max-width:100%;height:auto!important}
@media (max-width:44rem){
.hfh .repos thead{display:none}
.hfh .repos tr{display:block;border-bottom:1px solid #e3e3e3;padding:.375rem 0}
.hfh .repos td{display:flex;gap:.75rem;text-align:left;border:0;padding:.125rem 0;\
white-space:normal}
.hfh .repos td:before{content:attr(data-label);color:#767676;flex:0 0 8.5rem}
.hfh .repos td:has(span:empty){display:none}
.hfh details th{width:auto}
}
</style>"""


def heading(pathspec: str, attempt: int, cache_scope: str) -> str:
    """Return the title and the lines below it."""
    where = f"Task {escape(pathspec)} · attempt {attempt} · cache scope {escape(cache_scope)}"
    return (
        f'{STYLE}\n<div class="hfh"><h1>Hugging Face Hub Models</h1>'
        f'<div class="sub">{where}</div></div>'
    )


def state_line(accesses: Sequence[Access], *, final: bool) -> str:
    """Return one line that says how many repositories are in which state."""
    if not accesses:
        return "This task used no repository." if final else "No repository was requested yet."
    found = {
        state: [access for access in accesses if access.state == state]
        for state in (LOADING, DONE, FAILED)
    }
    parts = []
    if loading := len(found[LOADING]):
        parts.append(f"{loading} interrupted" if final else f"{loading} loading")
    if done := found[DONE]:
        hits = sum(access.cache_hit for access in done)
        size = _size(sum(int(access.reference.get("size") or 0) for access in done))
        origins = {"from the datastore": hits, "from the Hub": len(done) - hits}
        shown = ", ".join(f"{number} {origin}" for origin, number in origins.items() if number)
        parts.append(f"{len(done)} ready ({size}): {shown}")
    if failed := len(found[FAILED]):
        parts.append(f"{failed} failed")
    return f"{_count(len(accesses), 'repository', 'repositories')}: {'; '.join(parts)}."


def repositories(accesses: Sequence[Access], *, final: bool) -> str:
    """Return the state of all, and a table with one line for each request."""
    state = f'<div class="state">{escape(state_line(accesses, final=final))}</div>'
    if not accesses:
        return f'<div class="hfh">{state}</div>'
    columns = (
        ("Repository", ""),
        ("Revision → commit", ""),
        ("Size", "n"),
        ("Files", "n"),
        ("From", "t"),
        ("Seconds", "n"),
        ("Rate", "n"),
        ("Verified", "t"),
        ("Cache", "w"),
    )
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in columns)
    rows = []
    for access in accesses:
        cells = zip(columns, line_of(access, final=final), strict=True)
        rows.append(
            "<tr>"
            + "".join(
                f'<td class="{kind}" data-label="{name}"><span>{cell}</span></td>'
                for (name, kind), cell in cells
            )
            + "</tr>"
        )
    errors = "".join(
        f"<pre>{escape(access.request.label)}: {_text(access.error)}</pre>"
        for access in accesses
        if access.state == FAILED
    )
    return (
        f'<div class="hfh">{state}{errors}<table class="repos"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def line_of(access: Access, *, final: bool) -> tuple[str, ...]:
    """Return the cells of the table for one request, as HTML."""
    request, summary = access.request, access.summary
    kind = "" if request.repo_type == "model" else f' <span class="sub">{request.repo_type}</span>'
    commit = _commit(access)
    revision = escape(request.revision or "main")
    if commit and commit != request.revision:
        revision += f" → <code>{escape(commit[:8])}</code>"
    size = access.reference.get("size")
    is_known = summary is not None and summary.files > 0
    rate = None if summary is None else summary.rate
    return (
        f"<b>{escape(request.repo_id)}</b>{kind}",
        revision,
        "" if size is None else _size(int(size)),
        str(summary.files) if summary is not None and is_known else "",
        _origin(access),
        "" if summary is None else f"{summary.seconds:.2f}",
        "" if rate is None else f"{_size(rate)}/s",
        "" if summary is None else escape(summary.verified.removesuffix(" verified")),
        _tag(access, final=final),
    )


def details(accesses: Iterable[Access], cache_scope: str) -> str:
    """Return what is known of each request beyond its line, folded."""
    blocks = []
    for access in accesses:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{_text(value)}</td></tr>"
            for name, value in rows_of(access, cache_scope)
        )
        blocks.append(
            f"<details><summary>{escape(access.request.label)}</summary>"
            f"<table><tbody>{rows}</tbody></table>{_files(access)}</details>"
        )
    return f'<div class="hfh">{"".join(blocks)}</div>'


def rows_of(access: Access, cache_scope: str) -> list[tuple[str, str]]:
    """Return names and values of the details of one request; none contains credentials."""
    request, reference, summary = access.request, access.reference, access.summary
    rows = [
        ("Local path", access.path or "none: the files are in the datastore only"),
        ("Key", str(reference.get("key", ""))),
        ("URL", str(reference.get("url", ""))),
        ("Called as", access.mechanism),
        ("Repository type", request.repo_type),
        ("Revision", request.revision or "main"),
        ("Commit", _commit(access) or ""),
        ("Parameters", json.dumps(request.arguments) if request.arguments else ""),
        ("Force download", "yes" if request.force_download else ""),
        ("Cache scope", cache_scope),
        ("Began", _moment(access.started_at)),
        ("Stored on", str(reference.get("created_on", ""))[:19].replace("T", " ")),
        ("Stored by task", str(reference.get("pathspec", ""))),
    ]
    if summary is not None:
        moved = "none: the file system cloned the files" if summary.cloned else None
        rows.append(("Transferred", moved or f"{_size(summary.fetched)}, {summary.verified}"))
    rows.append(("Error", access.error))
    return [(name, value) for name, value in rows if value]


def _files(access: Access) -> str:
    manifest = {} if access.summary is None else access.summary.manifest
    recorded = recorded_files(manifest) or {}
    if not recorded:
        return ""
    rows = "".join(
        f'<tr><td>{_text(path)}</td><td class="n">{_size(size)}</td>'
        f"<td><code>{escape(digest or _own_digest(manifest, path))}</code></td></tr>"
        for path, (size, digest) in sorted(recorded.items())[:_MAX_FILES]
    )
    more = len(recorded) - _MAX_FILES
    note = f'<div class="sub">and {more} more</div>' if more > 0 else ""
    return (
        '<table class="files"><thead><tr><th>File</th><th class="n">Size</th><th>Digest</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>{note}"
    )


def _own_digest(manifest: Mapping[str, Any], path: str) -> str:
    """Return the engine's digest of a file, where the Hub's is not known."""
    found = manifest["files"][path].get("xxh3")
    return f"xxh3:{found}" if found else ""


def _tag(access: Access, *, final: bool) -> str:
    if access.state == FAILED:
        kind, text = "bad", "failed"
    elif access.state == LOADING:
        kind, text = ("bad", "interrupted") if final else ("busy", "loading")
    elif access.cache_hit:
        kind, text = "hit", "hit"
    else:
        kind, text = "miss", "miss"
    return f'<span class="tag {kind}">{text}</span>'


def _origin(access: Access) -> str:
    names = {HUB: "Hub", DATASTORE: "datastore", SIBLING: "another task's copy"}
    cloned = access.summary is not None and access.summary.cloned
    return escape(names.get(access.origin, "") + (" (cloned)" if cloned else ""))


def _commit(access: Access) -> str | None:
    record = (access.reference.get("metadata") or {}).get("hftransfer") or {}
    found = record.get("commit") or (access.summary.commit if access.summary else None)
    return None if found is None else str(found)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _size(size: float) -> str:
    from hftransfer._core.units import format_size

    return format_size(size)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _text(value: str) -> str:
    """Return `value` as HTML in one line of source: Markdown ends HTML at an empty line."""
    return escape(value).replace("\n", "<br>")
