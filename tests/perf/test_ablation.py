"""The ablation: each controller's switch, and the table of ratios."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftransfer import TransferOptions
from perf.ablation import ABLATION_SCENARIOS, ablation_table
from perf.cli import main
from perf.clients.hftransfer_ablated import ABLATIONS, Ablation, find_target
from perf.scenarios.registry import SCENARIOS
from support.perf import make_result, make_run, run_perf

each_ablation = pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda each: each.name)


@each_ablation
def test_everything_that_is_replaced_exists(ablation: Ablation) -> None:
    """A renamed attribute fails here, instead of an ablation that changes nothing."""
    assert bool(ablation.patches) != bool(ablation.environ)
    for patch in ablation.patches:
        owner, name = find_target(patch)
        assert callable(getattr(owner, name)) == callable(patch.replacement)


@each_ablation
def test_an_option_that_switches_a_controller_off_is_public(ablation: Ablation) -> None:
    """Environment variables of an ablation are options of hftransfer that accept the value."""
    options = TransferOptions.from_env(ablation.environ)

    assert (options != TransferOptions.from_env({})) == bool(ablation.environ)


def test_the_scenarios_exist() -> None:
    """Every scenario of the ablation is one of the benchmark."""
    assert set(ABLATION_SCENARIOS) <= set(SCENARIOS)


def test_the_table_has_the_time_without_over_the_time_with() -> None:
    """A ratio above 1 means that the controller saves time; the order is that of the table."""
    runs = [
        *(make_run("hftransfer", index, 2.0) for index in range(3)),
        *(make_run("without-rcvlowat", index, 3.0) for index in range(3)),
        *(make_run("without-concurrency", index, 1.0) for index in range(3)),
    ]

    _, _, first, second = ablation_table([make_result("hub-large", runs=runs)]).splitlines()

    assert first.startswith("| `concurrency` |")
    assert first.endswith("| hub-large | 2.00 s | 1.00 s | 0.50 | 0.50 |")
    assert second.endswith("| hub-large | 2.00 s | 3.00 s | 1.50 | 1.50 |")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hub-large", "--without", "gravity"], "there is no controller 'gravity'; there are conc"),
        (["hub-rss-200m"], "no controller is expected to make a difference in hub-rss-200m"),
    ],
)
def test_bad_input_is_rejected(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit code 2 and a message that names the choice."""
    assert main(["ablation", *arguments, "--scale", "0.001"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.timeout(240)
def test_hftransfer_transfers_without_each_controller(tmp_path: Path) -> None:
    """A switched-off controller changes the speed at most: every run is complete and correct."""
    names = [each.name for each in ABLATIONS]
    arguments = ["ablation", "hub-large", "--scale", "0.02", "--runs", "1", "--without", *names]

    done = run_perf(*arguments, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert all(f"| `{name}` |" in done.stdout for name in names)
    assert list(tmp_path.iterdir()) == []
