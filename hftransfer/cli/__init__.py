"""The command line: ``hftransfer cp``, ``ls``, ``verify`` and ``download``.

Exit codes: 0 success; 1 other failure; 2 invalid arguments, options or locations; 3 not found;
4 access denied; 5 the destination cannot be written; 6 the content is wrong; 130 interrupted
(SIGINT); 143 terminated (SIGTERM). In ``download`` an exception of huggingface_hub is not caught:
Python prints its traceback, and the exit code is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hftransfer._io.signals import INTERRUPTED, terminable
from hftransfer.cli.commands import WRONG_CONTENT
from hftransfer.cli.parser import make_parser
from hftransfer.errors import (
    AccessError,
    DestinationError,
    IntegrityError,
    LocationError,
    NotFoundError,
    OptionsError,
    TransferError,
)

__all__ = ("main",)

_EXIT_CODES: tuple[tuple[type[TransferError], int], ...] = (
    (OptionsError, 2),
    (LocationError, 2),
    (NotFoundError, 3),
    (AccessError, 4),
    (DestinationError, 5),
    (IntegrityError, WRONG_CONTENT),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name. Default: those of the process.

    Raises:
        SystemExit: with 2 for a usage error, with 0 after ``--help``, both from argparse.
    """
    parsed = make_parser().parse_args(arguments)
    try:
        with terminable():
            exit_code: int = parsed.run(parsed)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except SystemExit as error:  # SIGTERM, by way of `terminable`
        return error.code if isinstance(error.code, int) else 1
    except TransferError as error:
        print(f"hftransfer: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"  {note}", file=sys.stderr)
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
    return exit_code
