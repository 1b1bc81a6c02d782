"""`hftransfer.errors`: the tree of exceptions, their text, and the choice of one in a group."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import pickle
import re
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer import errors
from hftransfer.errors import (
    IntegrityError,
    NetworkError,
    Response,
    ServerError,
    TransferError,
    TransientError,
    first_error,
    redact,
    scrub,
    single_error,
)

Group: Any = getattr(builtins, "BaseExceptionGroup", None)
if Group is None:  # Python 3.10, where anyio brings the backport
    Group = pytest.importorskip("exceptiongroup").BaseExceptionGroup

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, TransferError)
]


def _drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Parse name -> (parent, built-in base) from the drawing in the module docstring."""
    assert errors.__doc__ is not None
    drawn: dict[str, tuple[str | None, str | None]] = {}
    ancestors: list[str] = []
    line_form = re.compile(r" {4}([│├└─ ]*)(\w+Error)(?: \((\w+)\))?(?: {2,}.*)?")
    for line in errors.__doc__.splitlines():
        if matched := line_form.fullmatch(line):
            branches, name, mixin = matched.groups()
            depth = len(branches) // 4
            del ancestors[depth:]
            drawn[name] = (ancestors[-1] if ancestors else None, mixin)
            ancestors.append(name)
    return drawn


def _real_tree() -> dict[str, tuple[str | None, str | None]]:
    real: dict[str, tuple[str | None, str | None]] = {}
    for error_class in CLASSES:
        ours = [base.__name__ for base in error_class.__bases__ if issubclass(base, TransferError)]
        others = [
            base.__name__
            for base in error_class.__bases__
            if base is not Exception and not issubclass(base, TransferError)
        ]
        real[error_class.__name__] = (ours[0] if ours else None, others[0] if others else None)
    return real


def test_the_tree_is_as_drawn() -> None:
    """The drawing in the docstring shows every class, its parent and its built-in base."""
    assert _drawn_tree() == _real_tree()


def test_every_public_name_exists_and_is_listed_in_order() -> None:
    """`__all__` is sorted and names every error class."""
    assert list(errors.__all__) == sorted(errors.__all__)
    assert {error_class.__name__ for error_class in CLASSES} <= set(errors.__all__)
    assert all(hasattr(errors, name) for name in errors.__all__)


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda each: str(each.__name__))
def test_str_shows_the_message(error_class: type[TransferError]) -> None:
    """Also for classes that derive from OSError, whose own `__str__` differs."""
    assert str(error_class("the message")) == "the message"


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda each: str(each.__name__))
def test_errors_survive_pickling(error_class: type[TransferError]) -> None:
    """Class, message and response are kept, as between processes."""
    response = Response("GET", "https://host/file", 500, {"retry-after": "1"}, b"body")
    error = error_class("the message", response=response)
    if isinstance(error, TransientError):
        error.retry_after = 1.5

    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - written by this test

    assert type(copied) is error_class
    assert (str(copied), copied.response) == ("the message", response)
    assert getattr(copied, "retry_after", None) == getattr(error, "retry_after", None)


_word = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=12)


@given(
    scheme=st.sampled_from(["http", "https", "s3"]),
    user=_word,
    password=_word,
    host=_word,
    path=_word,
    query=_word,
    fragment=_word,
)
def test_redact_keeps_only_scheme_host_and_path(
    scheme: str, user: str, password: str, host: str, path: str, query: str, fragment: str
) -> None:
    """User, password, query and fragment are removed."""
    url = f"{scheme}://{user}:{password}@{host}/{path}?{query}#{fragment}"

    assert redact(url) == f"{scheme}://{host}/{path}?…"


def test_redact_keeps_a_url_without_secrets() -> None:
    """It is returned unchanged."""
    assert redact("https://host:8080/a/b") == "https://host:8080/a/b"
    assert redact("/only/a/path") == "/only/a/path"


def test_redact_hides_a_password_that_contains_an_at_sign() -> None:
    """The host begins after the last ``@`` of the authority."""
    assert redact("https://me:p@ss@host/x") == "https://host/x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("user:pw@proxy:3128", "proxy:3128"),
        ("//user:pw@host/x", "host/x"),
        ("http://[::1", "(malformed URL)"),
        ("proxy:3128", "proxy:3128"),
    ],
)
def test_redact_hides_a_user_without_a_scheme(url: str, shown: str) -> None:
    """As in a proxy's variable."""
    assert redact(url) == shown


@pytest.mark.parametrize(
    "text",
    [
        "'https://key:S3CRET@host/x' is unknown",
        "s3://key:S3CRET@bucket/x",
        "socks5://S3CRET@host",
        "see https://b.s3.amazonaws.com/k?X-Amz-Signature=S3CRET&X-Amz-Expires=60: no",
        "see https://h/k?a=b#S3CRET",
        "<Code>X</Code>X-Amz-Signature=S3CRET",
        "X-Amz-Credential=S3CRET%2F20260101, x-amz-security-token=S3CRET",
        "Expires=1&Signature=S3CRET&Key-Pair-Id=S3CRET&Policy=S3CRET",
        "https://a.blob.core.windows.net/c?sv=1&sig=S3CRET",
        "Authorization: Bearer S3CRET",
        "{'Authorization': 'AWS4-HMAC-SHA256 Credential=S3CRET, Signature=S3CRET'}",
        "proxy-authorization: Basic S3CRET",
        "the token hf_S3CRETabcdef is not valid",
        "Bearer S3CRETabcdef",
    ],
)
def test_the_message_of_an_error_quotes_no_credential(text: str) -> None:
    """Whoever put it there: the user, a server or a library."""
    error = TransferError(text)

    assert "S3CRET" not in str(error)
    assert "S3CRET" not in repr(error)
    assert scrub(str(error)) == str(error)
    error.message = f"again: {text}"
    assert "S3CRET" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "hf://gpt2@main/config.json: no such file",
        "GET https://host:8080/a/b?…: the server answered 404",
        "https://host/x: bytes 0-3 were requested",
        "the policy is 'fail'; a=b",
        "caf\u00e9 \u2026\nsecond line",
    ],
)
def test_a_message_without_credentials_is_unchanged(text: str) -> None:
    """Also locations with a revision, and URLs that are redacted already."""
    assert str(TransferError(text)) == text


def test_a_server_does_not_control_the_terminal() -> None:
    """Control characters and halves of surrogate pairs are escaped."""
    assert str(TransferError("a\x1b[2Jb\ud800\r")) == r"a\x1b[2Jb\ud800\r"


def test_a_pickled_response_has_no_signature() -> None:
    """Errors are pickled into files, as by Metaflow."""
    error = TransferError("m", response=Response("GET", "https://h/x?sig=S3CRET", 403, {}))

    assert b"S3CRET" not in pickle.dumps(error)
    assert error.response is not None
    assert error.response.url.endswith("S3CRET")


def test_response_repr_shows_no_query_headers_or_body() -> None:
    """A response in a log or a traceback reveals no credential."""
    response = Response(
        "GET", "https://me:pw@host/x?X-Amz-Signature=abc", 403, {"authorization": "hf_s"}, b"b0dy"
    )

    assert repr(response) == "<Response GET https://host/x?… 403>"


def test_an_error_outside_a_group_is_returned_unchanged() -> None:
    """`first_error` returns the exception itself, without notes."""
    error = ValueError("plain")

    assert first_error(error) is error
    assert not hasattr(error, "__notes__")


# From the most to the least important.
_RANKED: list[list[type[BaseException]]] = [
    [KeyboardInterrupt, SystemExit],
    [IntegrityError, NetworkError],
    [ValueError, OSError],
    [asyncio.CancelledError],
]


@st.composite
def _leaves(draw: st.DrawFn) -> list[tuple[int, BaseException]]:
    ranks = draw(st.lists(st.integers(0, len(_RANKED) - 1), min_size=1, max_size=8))
    return [
        (rank, draw(st.sampled_from(_RANKED[rank]))(f"error {number}"))
        for number, rank in enumerate(ranks)
    ]


def _nest(errors: list[BaseException], cuts: list[int]) -> BaseException:
    """Wrap the tail of `errors` in further groups, from each cut on."""
    if cuts and 0 < cuts[0] < len(errors):
        head, tail = errors[: cuts[0]], errors[cuts[0] :]
        nested: BaseException = Group("outer", [*head, _nest(tail, cuts[1:])])
        return nested
    flat: BaseException = Group("inner", errors)
    return flat


@given(leaves=_leaves(), cuts=st.lists(st.integers(0, 4), max_size=3))
def test_the_first_error_of_the_highest_rank_is_chosen(
    leaves: list[tuple[int, BaseException]], cuts: list[int]
) -> None:
    """Interrupts, then `TransferError`, then others, then cancellations, in any nesting."""
    _, expected = min(leaves, key=lambda leaf: leaf[0])
    others = [error for _, error in leaves if error is not expected]

    winner = first_error(_nest([error for _, error in leaves], cuts))

    assert winner is expected
    assert sorted(getattr(winner, "__notes__", [])) == sorted(
        f"also failed: {type(other).__name__}: {other}" for other in others
    )


def test_equal_failures_make_one_note() -> None:
    """Sixteen connections that fail with the same message, also in a second call."""
    first = ServerError("503 from host")
    group = Group("g", [first, *(NetworkError("reset by peer") for _ in range(15))])

    first_error(group)
    first_error(group)

    assert getattr(first, "__notes__", []) == ["also failed: NetworkError: reset by peer"]


@pytest.mark.anyio
async def test_single_error_replaces_the_group_of_a_task_group() -> None:
    """The block raises the error of the child task, with its cause."""
    cause = OSError("cable")

    async def fail() -> None:
        raise NetworkError("connection lost") from cause

    with pytest.raises(NetworkError, match="connection lost") as caught, single_error():
        async with anyio.create_task_group() as group:
            group.start_soon(fail)

    assert caught.value.__cause__ is cause


def test_single_error_does_not_change_other_errors_or_success() -> None:
    """Without an exception group it has no effect."""
    with single_error():
        passed = True
    assert passed

    error = KeyError("x")
    with pytest.raises(KeyError) as caught, single_error():
        raise error
    assert caught.value is error
