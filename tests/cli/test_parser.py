"""The help of the command line."""

from __future__ import annotations

import pytest

from hftransfer.cli import main


@pytest.mark.parametrize("command", [[], ["cp"], ["ls"], ["verify"], ["download"]])
def test_help_can_be_printed_in_any_encoding(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Help is ASCII, so that it does not fail in the C locale."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])

    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert printed.startswith(" ".join(["usage: hftransfer", *command]))
    assert printed.isascii()
