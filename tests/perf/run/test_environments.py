"""The virtual environments of the peers."""

from __future__ import annotations

import re

import pytest

from perf.run.environments import ENVIRONMENTS, install


def test_every_requirement_is_pinned() -> None:
    """Results can only be compared if the versions of the peers do not change."""
    requirements = [each for env in ENVIRONMENTS.values() for each in env.requirements]

    assert requirements
    assert [each for each in requirements if not re.fullmatch(r"[\w.-]+==[\w.]+", each)] == []


def test_an_unknown_environment_is_rejected() -> None:
    """The message names the known ones."""
    with pytest.raises(ValueError, match="no environment 'gs'; there are hub, s3"):
        install(lambda line: None, ["gs"])
