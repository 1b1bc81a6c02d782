"""Measures hftransfer and its peers, and renders the results."""

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
from perf.ablation import ABLATION_SCENARIOS, ablation_table, run_ablation
from perf.clients.hftransfer_ablated import ABLATIONS
from perf.model import Scenario, Tool, Workspace
from perf.report.charts import render_charts, render_summary_chart
from perf.report.markdown import (
    REPORT_BLOCK,
    SUMMARY_BLOCK,
    render_report,
    render_summary,
    replace_block,
)
from perf.report.results import ScenarioResult, latest_results, read_results
from perf.report.table import text_table
from perf.run.environments import install
from perf.run.runner import run_scenario, select_tools
from perf.scenarios.registry import GROUPS, SCENARIOS, resolve
from perf.soak.run import run_soak

__all__ = ("main",)

_CHECKOUT = Path(__file__).parents[1]
_RESULTS = _CHECKOUT / "perf" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: a run failed; 2: bad input; 130: interrupted.
    """
    given = _parser().parse_args(arguments)
    try:
        with terminable():
            code: int = given.run(given)
    except BrokenPipeError:  # the reader of standard output has exited, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        _log(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _log("interrupted")
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="measure scenarios and print their tables"))
    _add_report(
        commands.add_parser("report", help="write the tables and charts of the documentation")
    )
    _add_ablation(
        commands.add_parser(
            "ablation", help="measure hftransfer with one adaptive controller off at a time"
        )
    )
    _add_soak(commands.add_parser("soak", help="transfer under random faults, kills and outages"))
    listing = commands.add_parser("list", help="print scenarios, groups, tools and their versions")
    listing.set_defaults(run=_list)
    installing = commands.add_parser("install", help="install the peers in virtual environments")
    installing.add_argument(
        "environments", nargs="*", metavar="ENVIRONMENT", help="default: all environments"
    )
    installing.set_defaults(run=_install)
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("scenarios", nargs="+", metavar="SCENARIO", help="scenario or group")
    run.add_argument(
        "--json", type=Path, metavar="FILE", help="default: perf/results/SCENARIO.json"
    )
    run.add_argument("--tool", nargs="+", action="extend", default=[], help="run only these tools")
    run.add_argument("--endpoint-url", help="endpoint of an existing S3 store; needs --bucket")
    run.add_argument(
        "--bucket", help="existing bucket; the prefix used in it is deleted at the end"
    )
    _add_measurement(run, runs=5)
    run.set_defaults(run=_run)


def _add_measurement(parser: argparse.ArgumentParser, *, runs: int) -> None:
    parser.add_argument(
        "--runs", type=_positive, default=runs, help=f"number of rounds; default: {runs}"
    )
    parser.add_argument(
        "--work-dir", type=Path, help="directory for all files; data sets in it are kept"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor on sizes; default: 1")


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="default: perf/results/*.json"
    )
    report.add_argument(
        "--svg",
        type=Path,
        default=_CHECKOUT / "perf" / "charts",
        metavar="DIR",
        help="directory for the charts; default: perf/charts",
    )
    report.add_argument(
        "--docs",
        type=Path,
        default=_CHECKOUT / "docs" / "performance.md",
        metavar="FILE",
        help="file whose block `perf` becomes the full report; default: docs/performance.md",
    )
    report.add_argument(
        "--readme",
        type=Path,
        default=_CHECKOUT / "README.md",
        metavar="FILE",
        help="file whose block `perf-summary` becomes the short table; default: README.md",
    )
    report.add_argument("--print", action="store_true", help="print the full report; write no file")
    report.set_defaults(run=_report)


def _add_ablation(ablation: argparse.ArgumentParser) -> None:
    ablation.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"default: {' '.join(ABLATION_SCENARIOS)}",
    )
    ablation.add_argument(
        "--without",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=f"only these controllers, of {', '.join(each.name for each in ABLATIONS)}",
    )
    _add_measurement(ablation, runs=5)
    ablation.set_defaults(run=_ablation)


def _add_soak(soak: argparse.ArgumentParser) -> None:
    soak.add_argument("--minutes", type=float, default=5.0, help="duration; default: 5")
    soak.add_argument("--seed", type=int, default=1, help="of everything random; default: 1")
    soak.add_argument(
        "--lanes", type=_positive, default=4, help="transfers at the same time; default: 4"
    )
    soak.add_argument("--work-dir", type=Path, help="directory for all files; what failed is kept")
    soak.set_defaults(run=_soak)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _run(given: argparse.Namespace) -> int:
    scenarios = _available(resolve(given.scenarios))
    chosen = [select_tools(scenario, given.tool, _log) for scenario in scenarios]
    settings = _settings(given)
    if given.json is not None:
        given.json.write_text("")  # fail now, rather than after hours of runs
    failed = False
    with _work_dir(given.work_dir) as root:
        for scenario, versions in zip(scenarios, chosen, strict=True):
            with _workspace(given, root, scenario.name, settings) as workspace:
                result = run_scenario(scenario, versions, workspace, runs=given.runs)
            _save(result, given.json)
            print(text_table(result), flush=True)
            failed = failed or not all(run.ok for run in result.runs)
    return int(failed)


def _settings(given: argparse.Namespace) -> dict[str, str]:
    """Return the settings of an existing S3 store.

    Raises:
        ValueError: there is an endpoint without a bucket.
    """
    if given.endpoint_url and not given.bucket:
        raise ValueError("--endpoint-url needs --bucket, the only bucket that is written to")
    settings = {"endpoint_url": given.endpoint_url, "bucket": given.bucket}
    return {name: value for name, value in settings.items() if value}


def _available(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Return the scenarios whose servers are installed, and log the others.

    Raises:
        ValueError: there is none.
    """
    kept = []
    for scenario in scenarios:
        if (missing := scenario.missing_requirement()) is not None:
            _log(f"{scenario.name} is skipped: it needs {missing}")
        else:
            kept.append(scenario)
    if not kept:
        raise ValueError("no scenario can run")
    return kept


@contextmanager
def _workspace(
    given: argparse.Namespace, root: Path, name: str, settings: dict[str, str]
) -> Iterator[Workspace]:
    workspace = Workspace(root / name, root / "datasets", given.scale, _log, settings)
    workspace.root.mkdir(exist_ok=True)
    workspace.datasets.mkdir(exist_ok=True)
    yield workspace
    if given.work_dir is None:
        shutil.rmtree(workspace.root)


def _save(result: ScenarioResult, path: Path | None) -> None:
    """Append to the named file, or else replace the stored result of the scenario.

    Without a named file, results at another scale than 1 are not stored.
    """
    text = json.dumps(result.to_json(), ensure_ascii=False) + "\n"
    if path is not None:
        with path.open("a") as file:
            file.write(text)
    elif result.scale == 1:
        _RESULTS.mkdir(exist_ok=True)
        (_RESULTS / f"{result.scenario}.json").write_text(text)


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
        missing = scenario.missing_requirement()
        print(f"  {scenario.name:20} {scenario.summary}")
        print(f"  {'':20} {_names(scenario.tools)}")
        if scenario.optional:
            print(f"  {'':20} with --tool also {_names(scenario.optional)}")
        if missing is not None:
            print(f"  {'':20} cannot run: it needs {missing}")
        for tool in (*scenario.tools, *scenario.optional):
            tools.setdefault(tool.name, tool)
    print("groups")
    for name, members in GROUPS.items():
        print(f"  {name:20} {', '.join(members)}")
    print("tools")
    for tool in tools.values():
        version = tool.find()
        print(f"  {tool.name:20} {version or 'not installed: ' + tool.install_hint}")
    return 0


def _names(tools: Sequence[Tool]) -> str:
    return ", ".join(tool.name for tool in tools)


def _report(given: argparse.Namespace) -> int:
    results = latest_results(read_results(given.files or sorted(_RESULTS.glob("*.json"))))
    if not results:
        raise ValueError(f"no results in {_RESULTS}; `python -m perf run` writes them")
    if given.print:
        print(render_report(results))
        return 0
    full, short = render_charts(results), render_summary_chart(results)
    documents = {
        given.docs: (REPORT_BLOCK, render_report(results, _links(full, given.svg, given.docs))),
        given.readme: (
            SUMMARY_BLOCK,
            render_summary(results, _links(short, given.svg, given.readme)),
        ),
    }
    texts = {path: _with_block(path, *block) for path, block in documents.items()}
    given.svg.mkdir(parents=True, exist_ok=True)
    for name, (_, picture) in {**full, **short}.items():
        (given.svg / name).write_text(picture)
    for path, text in texts.items():
        path.write_text(text)
    return 0


def _links(
    charts: dict[str, tuple[str, str]], folder: Path, document: Path
) -> list[tuple[str, str]]:
    """Return title and address of each chart, the address relative to the document."""
    return [
        (title, Path(os.path.relpath(folder / name, document.parent)).as_posix())
        for name, (title, _) in charts.items()
    ]


def _with_block(path: Path, name: str, block: str) -> str:
    """Return the text of a file with another block.

    Raises:
        ValueError: the file lacks the block's markers; the message names both.
    """
    try:
        return replace_block(path.read_text(), name, block)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _ablation(given: argparse.Namespace) -> int:
    scenarios = _available(resolve(given.scenarios or ABLATION_SCENARIOS))
    results = []
    with _work_dir(given.work_dir) as root:
        for scenario in scenarios:
            with _workspace(given, root, scenario.name, {}) as workspace:
                results.append(run_ablation(scenario, given.without, workspace, runs=given.runs))
    print(ablation_table(results))
    return int(not all(run.ok for result in results for run in result.runs))


def _soak(given: argparse.Namespace) -> int:
    with _work_dir(given.work_dir) as root:
        found = run_soak(root, minutes=given.minutes, seed=given.seed, lanes=given.lanes, log=_log)
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return int(bool(found["problems"] or found["growth"]))


def _install(given: argparse.Namespace) -> int:
    return int(install(_log, given.environments) > 0)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
