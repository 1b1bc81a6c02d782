"""The errors that a step gets: huggingface_hub's, the engine's and Metaflow's at once.

Code that was written for ``huggingface_hub.snapshot_download`` catches its classes, such as
``RepositoryNotFoundError``. Metaflow shows a `MetaflowException` as its message alone, and any
other exception with its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metaflow.exception import MetaflowException

_classes: dict[tuple[type[Exception], type[Exception]], type[Exception]] = {}
"""The classes made so far, so that equal errors have equal classes."""


@contextmanager
def raising_step_errors() -> Iterator[None]:
    """Raise `step_error` of every `hftransfer.TransferError` that leaves the block.

    An error that is a `MetaflowException` already, such as `UnrepairedError`, stays as it is.
    """
    from hftransfer.errors import TransferError

    try:
        yield
    except MetaflowException:
        raise
    except TransferError as error:
        raise step_error(error) from error


def step_error(error: Exception) -> Exception:
    """Return `error` as an instance of all classes that describe it.

    Parameters
    ----------
    error : hftransfer.TransferError
        Of the engine.

    Returns
    -------
    Exception
        A `MetaflowException` that is also an instance of the class of `error` and, if the Hub
        refused the request, of the class that huggingface_hub raises then.
    """
    mapped = _of_huggingface_hub(error)
    combined = _combined(type(mapped), type(error))
    found: Exception = combined.__new__(combined)
    found.__dict__.update(vars(error))
    found.__dict__.update(vars(mapped))
    message = f"{type(mapped).__name__}: {error}"
    found.__dict__.update(message=message, line_no=None, source_file=None)
    found.args = (message,)
    return found


def _of_huggingface_hub(error: Any) -> Exception:
    try:
        from hftransfer._hub_compat.error_mapping import to_huggingface_error

        return to_huggingface_error(error)
    except ImportError:  # huggingface_hub is not installed here
        return error  # type: ignore[no-any-return]


def _combined(mapped: type[Exception], own: type[Exception]) -> type[Exception]:
    """Return the class of errors that are both, and a `MetaflowException`."""
    found = _classes.get((mapped, own))
    if found is not None:
        return found
    names = {
        "__doc__": mapped.__doc__,
        "__module__": __name__,
        "__str__": MetaflowException.__str__,
        # Not `__reduce__`: huggingface_hub's classes define this one.
        "__reduce_ex__": lambda self, protocol: (_restored, (mapped, own, self.message)),
        "headline": "@huggingface_hub",
        "message": "",  # in place of the engine's property: each error has its own
    }
    bases = (mapped,) if mapped is own else (mapped, own)
    return _classes.setdefault(
        (mapped, own), type(mapped.__name__, (*bases, MetaflowException), names)
    )


def _restored(mapped: type[Exception], own: type[Exception], message: str) -> Exception:
    """Return an error of another process; without the response of the Hub."""
    combined = _combined(mapped, own)
    found: Exception = combined.__new__(combined)
    found.__dict__.update(message=message, line_no=None, source_file=None)
    found.args = (message,)
    return found
