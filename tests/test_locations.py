"""`hftransfer.locations`: parsing, writing back, and the rejection of invalid strings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hftransfer.errors import LocationError
from hftransfer.locations import (
    HubLocation,
    LocalLocation,
    MemoryLocation,
    S3Location,
    parse_location,
    safe_path,
)

ACCESS_POINT = "arn:aws:s3:us-west-2:123456789012:accesspoint/my-ap"
OUTPOST = "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-0123/accesspoint/ap"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://org/name", HubLocation("org/name")),
        ("hf://org/name/", HubLocation("org/name")),
        ("hf://models/org/name", HubLocation("org/name")),
        ("hf://gpt2", HubLocation("gpt2")),
        ("hf://gpt2@main/config.json", HubLocation("gpt2", revision="main", path="config.json")),
        ("hf://datasets/org/d@v1/a/b", HubLocation("org/d", "dataset", "v1", "a/b")),
        ("hf://spaces/org/app", HubLocation("org/app", "space")),
        ("hf://org/name@refs/pr/7/a", HubLocation("org/name", revision="refs/pr/7", path="a")),
        (
            "hf://datasets/o/d@refs/convert/parquet/x",
            HubLocation("o/d", "dataset", "refs/convert/parquet", "x"),
        ),
        ("hf://org/name@feature%2Fx/f", HubLocation("org/name", revision="feature/x", path="f")),
        ("hf://org/name/mail@home", HubLocation("org/name", path="mail@home")),
        ("s3://bucket", S3Location("bucket")),
        ("s3://bucket/", S3Location("bucket")),
        ("s3://bucket/a/b/", S3Location("bucket", "a/b/")),
        ("s3://bucket//odd key?#%", S3Location("bucket", "/odd key?#%")),
        (f"s3://{ACCESS_POINT}", S3Location(ACCESS_POINT)),
        (f"s3://{ACCESS_POINT}/a/b", S3Location(ACCESS_POINT, "a/b")),
        (f"s3://{OUTPOST}/a:b/c", S3Location(OUTPOST, "a:b/c")),
        ("memory://box/a/b", MemoryLocation("box", "a/b")),
        ("model", LocalLocation(Path("model"))),
        ("/data/model/", LocalLocation(Path("/data/model"), as_folder=True)),
        ("./hf:/x", LocalLocation(Path("hf:/x"))),
        ("file:///data/a%20b", LocalLocation(Path("/data/a b"))),
        (Path("hf:"), LocalLocation(Path("hf:"))),
    ],
)
def test_each_form_is_parsed(
    text: str | Path, expected: HubLocation | S3Location | LocalLocation | MemoryLocation
) -> None:
    """Each documented form of location string, and a path object."""
    assert parse_location(text) == expected


def test_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home folder of the user, in strings and in path objects."""
    monkeypatch.setenv("HOME", "/home/me")

    assert parse_location("~/x") == LocalLocation(Path("/home/me/x"))
    assert parse_location(Path("~/x")) == LocalLocation(Path("/home/me/x"))


def _is_name(text: str) -> bool:
    return ".." not in text and "--" not in text


_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", fullmatch=True).filter(_is_name)
_owners = _names | st.sampled_from(["models", "datasets", "spaces"])
_repo_ids = st.builds("{}/{}".format, _owners, _names) | _owners
_segments = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\\\0"), min_size=1
).filter(lambda text: text not in (".", ".."))
_paths = st.lists(_segments, min_size=1, max_size=4).map("/".join)
_revisions = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(
    lambda text: text != "refs"  # not a valid name: Git keeps all refs in a folder of that name
)


@given(
    repo_id=_repo_ids,
    repo_type=st.sampled_from(["model", "dataset", "space", "kernel"]),
    revision=st.none() | _revisions,
    path=st.just("") | _paths,
)
@example(repo_id="datasets/x", repo_type="model", revision=None, path="")
@example(repo_id="o/n", repo_type="model", revision="refs/pr/1", path="a")
def test_hub_round_trip(repo_id: str, repo_type: str, revision: str | None, path: str) -> None:
    """A Hub location that is written and parsed is equal, for any revision and path."""
    if "/" not in repo_id and revision is None:
        path = ""  # a name without an owner needs a revision, or it is parsed as the owner
    if path.startswith("C:") or (len(path) > 1 and path[1] == ":"):
        path = f"x{path}"  # a drive letter is rejected
    location = HubLocation(repo_id, repo_type, revision, path)

    assert parse_location(str(location)) == location


@given(
    bucket=st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}", fullmatch=True),
    key=st.text(st.characters(blacklist_characters="\0")),
)
def test_s3_round_trip(bucket: str, key: str) -> None:
    """A key is not decoded or normalised, including slashes, ``?`` and ``%``."""
    location = S3Location(bucket, key)

    assert parse_location(str(location)) == location


@given(name=_names, path=st.just("") | _paths)
def test_memory_round_trip(name: str, path: str) -> None:
    """A memory location that is written and parsed is equal."""
    location = MemoryLocation(name, path)

    assert parse_location(str(location)) == location


@given(path=_paths)
def test_local_round_trip(path: str) -> None:
    """An absolute local path that is written and parsed is equal."""
    location = LocalLocation(Path("/", path))

    assert parse_location(str(location)) == location


@pytest.mark.parametrize(
    ("typo", "fix"),
    [
        ("hf:org/name", "hf://org/name"),
        ("hf:/org/name", "hf://org/name"),
        ("HF:/org/name", "hf://org/name"),
        ("hf//org/name", "hf://org/name"),
        ("s3:bucket/key", "s3://bucket/key"),
        ("s3:/bucket/key", "s3://bucket/key"),
        ("s3//bucket/key", "s3://bucket/key"),
        ("S3://bucket/key", "did you mean s3://"),
        ("HF://org/name", "did you mean hf://"),
        ("gs://bucket/key", "use hf://, s3:// or a path"),
        ("https://host/x", "use hf://, s3:// or a path"),
        ("hf://", "hf://[datasets/|spaces/]org/name"),
        ("hf://datasets/", "hf://[datasets/|spaces/]org/name"),
        ("hf:///name", "hf://[datasets/|spaces/]org/name"),
        ("hf://org//name", "hf://[datasets/|spaces/]org/name"),
        ("hf://org/na me", "hf://[datasets/|spaces/]org/name"),
        ("hf://org/a--b", "hf://[datasets/|spaces/]org/name"),
        ("hf://org/name@", "revision after '@' is empty"),
        ("hf://org/name@refs/heads/x", "%2F"),
        ("s3://", "s3://bucket[/key]"),
        ("s3://arn:aws:s3:::bucket/key", "not that of an access point"),
        (f"s3://{ACCESS_POINT}_x/key", "not that of an access point"),
        ("s3:///key", "s3://bucket[/key]"),
        ("", "s3://"),
        ("a\0b", "s3://"),
        ("~no-such-user-here/x", "./~no-such-user-here/x"),
    ],
)
def test_an_invalid_location_is_rejected_with_a_hint(typo: str, fix: str) -> None:
    """A typo is never a local file: the message contains the text and the correct form."""
    with pytest.raises(LocationError) as caught:
        parse_location(typo)

    assert fix in str(caught.value)
    assert repr(typo) in str(caught.value)


@given(st.text("hf3s:/@.a~%\\ ", max_size=12))
def test_any_text_is_a_location_or_a_location_error(text: str) -> None:
    """No other exception is raised; LocationError is a ValueError."""
    try:
        location = parse_location(text)
    except LocationError as error:
        assert isinstance(error, ValueError)
    else:
        # A scheme is never parsed as a folder of that name.
        assert not (isinstance(location, LocalLocation) and re.match(r"[hf3sa][hf3sa.]*://", text))


_hostile = st.text("ab./\\:\0C ~", max_size=12) | st.text(max_size=8)


@given(path=_hostile)
@example(path="../x")
@example(path="a/../../x")
@example(path="/etc/passwd")
@example(path="C:/x")
def test_a_safe_path_never_leaves_its_folder(path: str) -> None:
    """An accepted path stays inside the folder that it is joined to, on every system."""
    try:
        accepted = safe_path(path)
    except LocationError:
        return
    joined = os.path.join("/folder/inside", accepted)
    assert accepted == path
    assert os.path.normpath(joined) == joined  # no segment refers to another folder
    assert os.path.commonpath(["/folder/inside", joined]) == "/folder/inside"
    assert "\\" not in accepted


@given(path=_paths.filter(lambda path: path[1:2] != ":"))
def test_ordinary_paths_are_safe(path: str) -> None:
    """Any other text is a valid file name, so that unusual names can be transferred."""
    assert safe_path(path) == path


@pytest.mark.parametrize(
    "path", ["", ".", "..", "a/..", "a//b", "/a", "a/", "a\\b", "..\\x", "C:x", "c:/x", "a\0b"]
)
def test_unsafe_paths_are_rejected(path: str) -> None:
    """Empty and absolute paths, dot segments, backslashes, drive letters and NUL."""
    with pytest.raises(LocationError, match="stays inside its folder"):
        safe_path(path)


def test_a_path_that_leaves_its_repository_is_rejected() -> None:
    """The path inside a Hub location is checked when the location is parsed."""
    with pytest.raises(LocationError, match="stays inside its folder"):
        parse_location("hf://org/name/../x")


def test_a_slash_in_a_revision_is_percent_encoded() -> None:
    """It is not part of the path."""
    assert str(HubLocation("o/n", revision="a/b", path="c")) == f"hf://o/n@{quote('a/b', '')}/c"
