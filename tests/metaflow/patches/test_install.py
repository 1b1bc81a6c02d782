"""The table of patches matches the installed releases, and features do not depend on each other."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from metaflow_extensions.hftransfer.plugins.patches import install, table
from metaflow_extensions.hftransfer.plugins.patches.table import Feature, Patch, Requirement

pytestmark = pytest.mark.metaflow

PLUGINS = Path(install.__file__).parents[1]


@pytest.fixture(autouse=True)
def _nothing_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that a process logs once are logged in each test."""
    monkeypatch.delenv("_HFTRANSFER_LOGGED", raising=False)


def entries_of(feature: Feature) -> tuple[Patch | Requirement, ...]:
    """Return all targets of `feature`, replaced or not."""
    return (*feature.patches, *feature.requires)


ENTRIES = [
    pytest.param(feature, entry, id=f"{index}-{entry.target.rpartition(':')[2]}")
    for index, feature in enumerate(table.FEATURES)
    for entry in entries_of(feature)
]
# Assignments to attributes of objects other than `self`. Each of these objects belongs to
# this extension, or was made by the function that changes it.
OWN_OBJECTS = {
    ("card/hub_card.py", "component.component_id"),
    ("card/storage.py", "storage.datastore_root"),  # a copy
    ("engine/tar.py", "archive.copybufsize"),
    ("hub/cache.py", "entry.kept"),
    ("hub/checkpoint_store.py", "datastore.artifact_store"),  # a copy, or new
    ("hub/checkpoint_store.py", "datastore.metadata_store"),  # new
    ("hub/checkpoint_store.py", "datastore.pathspec"),  # new
    ("hub/checkpoint_store.py", "entry.claim"),
    ("hub/checkpoint_store.py", "entry.published"),
    ("hub/lease.py", "lease.held"),
    ("hub/lease.py", "lease.record"),
    ("hub/lease.py", "lease.waited"),
    ("hub/messages.py", "self._access.origin"),
    ("hub/single_flight.py", "flight.is_exclusive"),
    ("hub/single_flight.py", "flight.record"),
    ("hub/single_flight.py", "flight.waited"),
    ("hub/single_flight.py", "lease.new_record"),
    ("hub/step_errors.py", "found.args"),
    ("patches/artifacts.py", "progress.what"),
    ("patches/credentials.py", "config.__qualname__"),
}


class Replicas:
    """Copies of the modules that the table names, with the originals of all targets.

    Patches are installed into the copies, so this process keeps its own.
    """

    def __init__(self, features: Sequence[Feature] = table.FEATURES) -> None:
        self._features = features
        self._modules: dict[str, Any] = {}

    def __call__(self, name: str) -> Any:
        """Return the copy of the module `name`: the `import_module` of `install_features`."""
        if name not in self._modules:
            copy = SimpleNamespace(**vars(importlib.import_module(name)))
            for target in _targets(self._features, name):
                self._copy(copy, target.split("."))
            self._modules[name] = copy
        return self._modules[name]

    def _copy(self, module: Any, path: list[str]) -> None:
        if len(path) == 1:
            value = getattr(module, path[0])
            if inspect.isfunction(value):
                setattr(module, path[0], inspect.unwrap(value))
            return
        class_name, name = path
        owner = getattr(module, class_name)
        if not getattr(owner, "is_replica", False):
            owner = type(class_name, owner.__mro__[1:], {**_members(owner), "is_replica": True})
            setattr(module, class_name, owner)
        value = inspect.getattr_static(owner, name)
        if isinstance(value, staticmethod):
            setattr(owner, name, staticmethod(inspect.unwrap(value.__func__)))
        elif inspect.isfunction(value):
            setattr(owner, name, inspect.unwrap(value))

    def find(self, target: str) -> tuple[Any, str]:
        """Return the owner of `target` in the copies, and the last part of its name."""
        module, _, path = target.partition(":")
        owner = self(module)
        *owners, name = path.split(".")
        for part in owners:
            owner = getattr(owner, part)
        return owner, name


def _members(owner: type) -> dict[str, Any]:
    return {k: v for k, v in vars(owner).items() if k not in ("__dict__", "__weakref__")}


def _targets(features: Sequence[Feature], module: str) -> list[str]:
    entries = [entry for feature in features for entry in entries_of(feature)]
    split = [entry.target.partition(":") for entry in entries]
    return [path for name, _, path in split if name == module]


def is_installed(replicas: Replicas, feature: Feature) -> bool:
    """Return True if all targets of `feature` were replaced, False if none was."""
    found = set()
    for patch in feature.patches:
        owner, name = replicas.find(patch.target)
        value = vars(owner).get(name)
        value = value.__func__ if isinstance(value, staticmethod) else value
        found.add(patch.wrapper.partition(":")[0] in _wrapper_modules(value))
    assert len(found) == 1
    return found.pop()


def _wrapper_modules(value: Any) -> set[str]:
    """Return the names of this extension's modules whose wrappers are around `value`."""
    modules = set()
    while value is not None:
        code = getattr(value, "__code__", None)
        modules.add(Path(code.co_filename).stem if code else "")
        value = getattr(value, "__wrapped__", None)
    return modules


def rename(owner: Any, name: str) -> None:
    """Remove `name` from a class, or a copy of a module."""
    delattr(owner, name)


def change_signature(owner: Any, name: str) -> None:
    """Replace a function by one with one more parameter."""

    def changed(self: Any, one_more: Any, *args: Any) -> None: ...

    setattr(owner, name, changed)


def test_every_feature_is_installed() -> None:
    """All targets of the installed releases are as the table says."""
    replicas = Replicas()

    reasons = install.install_features(table.FEATURES, replicas)

    assert reasons == {feature.name: "" for feature in table.FEATURES}
    assert all(is_installed(replicas, feature) for feature in table.FEATURES)


def test_a_feature_replaces_each_target_once() -> None:
    """A second wrapper of one feature would replace the first; of another one it wraps it."""
    for feature in table.FEATURES:
        targets = [patch.target for patch in feature.patches]
        assert len(targets) == len(set(targets))


def test_importing_metaflow_installs_every_feature() -> None:
    """The classes of this process, which has imported Metaflow, are replaced."""
    for feature in table.FEATURES:
        for patch in feature.patches:
            _, _, value = install._find(patch, importlib.import_module)
            assert patch.wrapper.partition(":")[0] in _wrapper_modules(value), patch


@pytest.mark.parametrize(("feature", "entry"), ENTRIES)
@pytest.mark.parametrize("damage", [rename, change_signature])
def test_a_mismatch_disables_its_feature_alone(
    feature: Feature,
    entry: Patch | Requirement,
    damage: Callable[[Any, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A renamed target or a changed signature: one line, and every other feature is installed."""
    if damage is change_signature and entry.signature is None:
        pytest.skip("the table expects no signature of it")
    affected = [
        each.name
        for each in table.FEATURES
        if any(entry.target == other.target for other in entries_of(each))
    ]
    replicas = Replicas()
    owner, name = replicas.find(entry.target)
    damage(owner, name)

    reasons = install.install_features(table.FEATURES, replicas)

    assert [name for name, reason in reasons.items() if reason] == affected
    assert feature.name in affected
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(affected)
    for line, disabled in zip(lines, affected, strict=True):
        assert line.startswith(f"[hftransfer] Disabled: {disabled}. Reason: ")
        assert entry.target.partition(":")[2] in line
    for each in table.FEATURES:
        if entry not in each.patches:
            assert is_installed(replicas, each) is not bool(reasons[each.name])


def test_a_missing_module_disables_its_features_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A module that cannot be imported is a mismatch like any other."""
    replicas = Replicas()
    missing = "metaflow.plugins.cards.card_creator"

    def import_module(name: str) -> ModuleType:
        if name == missing:
            raise ImportError("no such module")
        found: ModuleType = replicas(name)
        return found

    reasons = install.install_features(table.FEATURES, import_module)

    disabled = [name for name, reason in reasons.items() if reason]
    assert disabled == ["cards of @checkpoint and @model without a process for each update"]
    assert capsys.readouterr().err == (
        f"[hftransfer] Disabled: {disabled[0]}. Reason: {missing} cannot be imported "
        "(ImportError: no such module)\n"
    )


def test_a_failure_after_the_replacement_undoes_it(capsys: pytest.CaptureFixture[str]) -> None:
    """If `after` fails, the targets have their original values again."""
    replicas = Replicas()
    feature = Feature("broken", "", table.FEATURES[0].patches, after="signatures:no_such_function")
    owner, name = replicas.find(feature.patches[0].target)
    before = getattr(owner, name)

    reasons = install.install_features([feature], replicas)

    assert "no_such_function" in reasons["broken"]
    assert getattr(owner, name) is before
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("entry", table.DECORATOR.requires, ids=lambda entry: entry.target)
@pytest.mark.parametrize("damage", [rename, change_signature])
def test_what_the_decorator_needs_is_checked(
    entry: Requirement, damage: Callable[[Any, str], None]
) -> None:
    """Each name and each signature; the text names the one that is not as expected."""
    if damage is change_signature and entry.signature is None:
        pytest.skip("the table expects no signature of it")
    replicas = Replicas((table.DECORATOR,))
    assert install.obstacle(table.DECORATOR, replicas) == ""
    owner, name = replicas.find(entry.target)
    damage(owner, name)

    assert entry.target.partition(":")[2] in install.obstacle(table.DECORATOR, replicas)


def test_the_decorator_needs_a_known_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of another release may have other meanings."""
    monkeypatch.setattr(table, "KNOWN_RELEASES", ("0.1.",))

    assert "is not supported" in install.obstacle(table.DECORATOR)
    assert install.obstacle(table.S3_DATASTORE, any_release=True) == ""


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            "table.KNOWN_RELEASES = ('0.1.',)",
            "Disabled: all patches of metaflow-checkpoint. Reason: release 0.",
        ),
        (
            (
                "patch = dataclasses.replace(table.FEATURES[0].patches[0], signature='(self)')\n"
                "first = dataclasses.replace(table.FEATURES[0], patches=(patch,))\n"
                "table.FEATURES = (first, *table.FEATURES[1:])"
            ),
            "Disabled: saving files with the engine. Reason: ObjectStorage._save_objects of ",
        ),
    ],
    ids=["release", "signature"],
)
def test_importing_metaflow_works_in_any_case(tmp_path: Path, change: str, line: str) -> None:
    """`import metaflow` prints the one line, and the decorators are there."""
    program = (
        "import dataclasses\n"
        "from metaflow_extensions.hftransfer.plugins.patches import table\n"
        f"{change}\n"
        "import metaflow\n"
        "print(metaflow.huggingface_hub.args[0].__module__, metaflow.checkpoint is not None)\n"
    )

    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout == "metaflow_extensions.hftransfer.plugins.decorator True\n"
    assert len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith(f"[hftransfer] {line}")


def test_nothing_else_assigns_to_foreign_attributes() -> None:
    """Outside of the installer no `setattr`, and no assignment to attributes of other objects."""
    found = set()
    for path in sorted(PLUGINS.rglob("*.py")):
        name = path.relative_to(PLUGINS).as_posix()
        if name == "patches/install.py":
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
                found.add((name, ast.unparse(node)))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
                target = ast.unparse(node)
                if not (target.startswith("self.") and target.count(".") == 1):
                    found.add((name, target))

    assert found == OWN_OBJECTS
