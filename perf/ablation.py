"""Measures hftransfer with one adaptive controller off at a time, beside hftransfer as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perf.clients.hftransfer_ablated import ABLATIONS, Ablation
from perf.model import OURS, Scenario, Workspace
from perf.report.markdown import markdown_table
from perf.report.results import ScenarioResult, summaries
from perf.report.table import ratio_text
from perf.run.runner import run_scenario, select_tools
from perf.tools.base import client

__all__ = ("ABLATION_SCENARIOS", "ablation_table", "run_ablation")

ABLATION_SCENARIOS = tuple(dict.fromkeys(name for each in ABLATIONS for name in each.scenarios))
"""All scenarios in which some controller can make a difference."""

_PREFIX = "without-"


def run_ablation(
    scenario: Scenario, names: Sequence[str], workspace: Workspace, *, runs: int
) -> ScenarioResult:
    """Run hftransfer unchanged and without each controller, in turn, in every round.

    Args:
        scenario: a scenario of the groups ``hub``, ``s3-get`` or ``s3-put``.
        names: of controllers; empty for those that can make a difference in the scenario.
        workspace: see `Workspace`.
        runs: number of rounds.

    Raises:
        ValueError: there is no controller of that name, or none for the scenario.
    """
    tools = [
        client(OURS, "hftransfer_ablated", distribution="hftransfer"),
        *(
            client(
                _PREFIX + ablation.name,
                "hftransfer_ablated",
                distribution="hftransfer",
                environ=ablation.environ,
                arguments=("--without", ablation.name),
            )
            for ablation in _select(scenario, names)
        ),
    ]
    # With the warm-up, the first tool of the first round does not start on cold caches.
    changed = replace(scenario, tools=tools, optional=(), warm_up=True)
    return run_scenario(changed, select_tools(changed, (), workspace.log), workspace, runs=runs)


def _select(scenario: Scenario, names: Sequence[str]) -> list[Ablation]:
    known = {ablation.name: ablation for ablation in ABLATIONS}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no controller {name!r}; there are {', '.join(known)}")
    selected = [known[name] for name in dict.fromkeys(names)] or [
        ablation for ablation in ABLATIONS if scenario.name in ablation.scenarios
    ]
    if not selected:
        raise ValueError(
            f"no controller is expected to make a difference in {scenario.name}; "
            "choose some with --without"
        )
    return selected


def ablation_table(results: Sequence[ScenarioResult]) -> str:
    """Return a Markdown table with one row for each controller and scenario.

    A ratio is the time without the controller divided by the time with it, as the median over
    the rounds: above 1, the controller saves time.
    """
    head = ("without", "effect", "scenario", "wall with", "wall without", "wall ratio", "CPU ratio")
    effects = {_PREFIX + ablation.name: ablation.effect for ablation in ABLATIONS}
    rows = []
    for result in results:
        by_tool = {row.tool: row for row in summaries(result)}
        for tool in (each for each in result.tools if each in effects):
            ratio = result.ratio(tool, OURS)
            rows.append(
                (
                    f"`{tool.removeprefix(_PREFIX)}`",
                    effects[tool],
                    result.scenario,
                    f"{by_tool[OURS].wall_s:.2f} s",
                    f"{by_tool[tool].wall_s:.2f} s" if by_tool[tool].good else "failed",
                    ratio_text(ratio["wall"]),
                    ratio_text(ratio["cpu"]),
                )
            )
    order = list(effects)
    rows.sort(key=lambda row: order.index(_PREFIX + row[0].strip("`")))
    # Only the first row of a controller has its name and effect.
    shown = [
        row if index == 0 or rows[index - 1][0] != row[0] else ("", "", *row[2:])
        for index, row in enumerate(rows)
    ]
    return markdown_table(head, shown, left={0, 1, 2})
