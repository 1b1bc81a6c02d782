"""The command line: `run`, `list`, `report`, `install`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hftransfer.sync import terminable
from perf.model import Place, Scenario, Tool
from perf.report.charts import charts
from perf.report.markdown import insert, latest, markdown
from perf.report.results import Document, read_documents
from perf.report.table import text_table
from perf.run.environments import install
from perf.run.runner import choose_tools, run_scenario
from perf.scenarios.registry import GROUPS, SCENARIOS, resolve

__all__ = ("main",)

_RESULTS = Path(__file__).with_name("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a tool failed, 2 bad input."""
    given = _parser().parse_args(arguments)
    try:
        with terminable():
            code: int = given.run(given)
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        _tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="measure scenarios")
    run.add_argument("scenarios", nargs="+", metavar="SCENARIO")
    run.add_argument("--runs", type=_positive, default=5, help="rounds; default 5")
    run.add_argument(
        "--json", type=Path, metavar="FILE", help="default: perf/results/SCENARIO.json"
    )
    run.add_argument("--tool", nargs="+", action="extend", default=[], help="only these")
    run.add_argument("--work-dir", type=Path, help="for all files; payloads in it are kept")
    run.add_argument("--scale", type=float, default=1.0, help="factor on sizes; default 1")
    run.add_argument("--endpoint-url", help="of an S3 of your own; needs --bucket")
    run.add_argument("--bucket", help="in which a prefix is filled, and removed at the end")
    run.set_defaults(run=_run)
    report = commands.add_parser("report", help="documents as Markdown and pictures")
    report.add_argument("files", nargs="+", type=Path, metavar="FILE")
    report.add_argument("--svg", type=Path, metavar="DIR", help="write the pictures there")
    report.add_argument("--readme", type=Path, help="replace what is between its markers")
    report.set_defaults(run=_report)
    commands.add_parser("list", help="show scenarios and tools").set_defaults(run=_list)
    commands.add_parser("install", help="install the peers").set_defaults(run=_install)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _run(given: argparse.Namespace) -> int:
    scenarios = _available(resolve(given.scenarios))
    chosen = [choose_tools(scenario, given.tool, _tell) for scenario in scenarios]
    if given.json is not None:
        given.json.write_text("")  # a path that cannot be written is refused before hours of runs
    failed = False
    with _work_dir(given.work_dir) as root:
        for scenario, versions in zip(scenarios, chosen, strict=True):
            place = Place(
                root / scenario.name, root / "payloads", given.scale, _tell, _settings(given)
            )
            place.root.mkdir(exist_ok=True)
            place.payloads.mkdir(exist_ok=True)
            document = run_scenario(scenario, versions, place, runs=given.runs)
            if given.work_dir is None:
                shutil.rmtree(place.root)
            _save(document, given.json)
            print(text_table(document), flush=True)
            failed = failed or not all(run.ok for run in document.runs)
    return int(failed)


def _settings(given: argparse.Namespace) -> dict[str, str]:
    """Return what the command line says of the operator's own S3.

    Raises:
        ValueError: it names an endpoint and no bucket.
    """
    if given.endpoint_url and not given.bucket:
        raise ValueError("--endpoint-url needs --bucket: only there may anything be written")
    named = {"endpoint_url": given.endpoint_url, "bucket": given.bucket}
    return {name: value for name, value in named.items() if value}


def _available(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Return the scenarios whose servers are installed, and tell of the others.

    Raises:
        ValueError: none is left.
    """
    kept = []
    for scenario in scenarios:
        if (missing := scenario.missing()) is not None:
            _tell(f"{scenario.name} is left out, it needs {missing}")
        else:
            kept.append(scenario)
    if not kept:
        raise ValueError("nothing is left to run")
    return kept


def _save(document: Document, path: Path | None) -> None:
    """Add to the file that was named, or replace the last document of the scenario.

    Without a name, the documents of scaled-down scenarios are not kept.
    """
    text = json.dumps(document.to_json(), ensure_ascii=False) + "\n"
    if path is not None:
        with path.open("a") as file:
            file.write(text)
    elif document.scale == 1:
        _RESULTS.mkdir(exist_ok=True)
        (_RESULTS / f"{document.scenario}.json").write_text(text)


@contextmanager
def _work_dir(named: Path | None) -> Iterator[Path]:
    if named is not None:
        named.mkdir(parents=True, exist_ok=True)
        yield named.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="hftransfer-perf-") as name:
        yield Path(name).resolve()


def _list(given: argparse.Namespace) -> int:
    tools: dict[str, Tool] = {}
    print("scenarios")
    for scenario in SCENARIOS.values():
        missing = scenario.missing()
        print(f"  {scenario.name:14} {scenario.summary}")
        print(f"  {'':14} {_names(scenario.tools)}")
        if scenario.optional:
            print(f"  {'':14} with --tool also {_names(scenario.optional)}")
        if missing is not None:
            print(f"  {'':14} cannot run yet, it needs {missing}")
        for tool in (*scenario.tools, *scenario.optional):
            tools.setdefault(tool.name, tool)
    print("groups")
    for name, members in GROUPS.items():
        print(f"  {name:14} {', '.join(members)}")
    print("tools")
    for tool in tools.values():
        version = tool.find()
        print(f"  {tool.name:20} {version or 'not installed: ' + tool.how_to_install}")
    return 0


def _names(tools: Sequence[Tool]) -> str:
    return ", ".join(tool.name for tool in tools)


def _report(given: argparse.Namespace) -> int:
    documents = latest(read_documents(given.files))
    shown = []
    if given.svg is not None:
        given.svg.mkdir(parents=True, exist_ok=True)
        base = given.readme.parent if given.readme is not None else Path.cwd()
        for name, (title, picture) in charts(documents).items():
            (given.svg / name).write_text(picture)
            shown.append((title, Path(os.path.relpath(given.svg / name, base)).as_posix()))
    block = markdown(documents, shown)
    if given.readme is None:
        print(block)
        return 0
    try:
        text = insert(given.readme.read_text(), block)
    except ValueError as error:
        raise ValueError(f"{given.readme} {error}") from None
    given.readme.write_text(text)
    return 0


def _install(given: argparse.Namespace) -> int:
    return int(install(_tell) > 0)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
