"""Checks the table of patches against the installed releases, and replaces the targets.

The only module that assigns to attributes of other packages' classes and modules.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, NamedTuple

from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once
from metaflow_extensions.hftransfer.plugins.patches import table
from metaflow_extensions.hftransfer.plugins.patches.signatures import signature_of
from metaflow_extensions.hftransfer.plugins.patches.table import Feature, Patch, Requirement

_CHECKPOINT = "metaflow_extensions.obcheckpoint"
_HERE = "metaflow_extensions.hftransfer.plugins.patches"

Import = Callable[[str], Any]


class MismatchError(Exception):
    """A target is not what the table says; the message names it and the difference."""


class _Replacement(NamedTuple):
    owner: Any
    """A class or a module."""
    name: str
    value: Any


def install_patches() -> dict[str, str]:
    """Install every feature of the table whose targets are as expected; never raises.

    Without metaflow-checkpoint nothing is installed and nothing is logged.

    Returns
    -------
    dict
        For each feature the reason why it is disabled, or an empty text.
    """
    if _is_missing(_CHECKPOINT):
        return {feature.name: "metaflow-checkpoint is not installed" for feature in table.FEATURES}
    release = _checkpoint_release()
    if not release.startswith(table.KNOWN_RELEASES):
        reason = _unsupported(release)
        log_once(f"Disabled: all patches of metaflow-checkpoint. Reason: {reason}")
        return {feature.name: reason for feature in table.FEATURES}
    return install_features(table.FEATURES)


def install_features(
    features: Iterable[Feature], import_module: Import = importlib.import_module
) -> dict[str, str]:
    """Install `features`, each on its own; log one line for each that is disabled.

    Parameters
    ----------
    features : iterable of Feature
    import_module : callable
        Returns the module of that name; for the modules of targets and requirements.

    Returns
    -------
    dict
        For each feature the reason why it is disabled, or an empty text.
    """
    reasons = {}
    for feature in features:
        try:
            _install(feature, import_module)
            reasons[feature.name] = ""
        except Exception as error:  # noqa: BLE001 - `import metaflow` must work in any case
            is_mismatch = isinstance(error, MismatchError)
            reason = str(error) if is_mismatch else f"{type(error).__name__}: {error}"
            log_once(f"Disabled: {feature.name}. Reason: {reason}")
            reasons[feature.name] = reason
    return reasons


def obstacle(
    feature: Feature, import_module: Import = importlib.import_module, *, any_release: bool = False
) -> str:
    """Return why what `feature` requires is not as expected, or an empty text.

    Parameters
    ----------
    feature : Feature
        Without patches.
    import_module : callable
        As for `install_features`.
    any_release : bool, default False
        True if the feature does not depend on the release of metaflow-checkpoint.
    """
    release = _checkpoint_release()
    if not any_release and not release.startswith(table.KNOWN_RELEASES):
        return _unsupported(release)
    try:
        for requirement in feature.requires:
            _find(requirement, import_module)
    except MismatchError as error:
        return str(error)
    return ""


def _unsupported(release: str) -> str:
    known = ", ".join(f"{prefix}*" for prefix in table.KNOWN_RELEASES)
    return f"release {release} of metaflow-checkpoint is not supported; supported are {known}"


def _install(feature: Feature, import_module: Import) -> None:
    """Replace all targets of `feature`, or none."""
    for requirement in feature.requires:
        _find(requirement, import_module)
    replacements = [_replacement(patch, import_module) for patch in feature.patches]
    originals = [_Replacement(owner, name, vars(owner)[name]) for owner, name, _ in replacements]
    try:
        for owner, name, value in replacements:
            setattr(owner, name, value)
        if feature.after is not None:
            _own_function(feature.after)()
    except BaseException:
        for owner, name, value in originals:
            setattr(owner, name, value)
        raise


def _replacement(patch: Patch, import_module: Import) -> _Replacement:
    owner, name, original = _find(patch, import_module)
    if name not in vars(owner):
        module, _, path = patch.target.partition(":")
        raise MismatchError(f"{path} of {module} is inherited, not defined there")
    value = _own_function(patch.wrapper)(original)
    is_bound = isinstance(vars(owner)[name], (classmethod, staticmethod))
    # The original of a class method is already bound to its class.
    return _Replacement(owner, name, staticmethod(value) if is_bound else value)


def _find(expected: Patch | Requirement, import_module: Import) -> tuple[Any, str, Any]:
    """Return owner, name and value of a target.

    Raises
    ------
    MismatchError
        If it is missing, or has another signature than expected.
    """
    module_name, _, path = expected.target.partition(":")
    try:
        value = import_module(module_name)
    except Exception as error:
        raise MismatchError(
            f"{module_name} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    owner, name = value, ""
    for name in path.split("."):
        owner = value
        try:
            value = getattr(owner, name)
        except AttributeError:
            raise MismatchError(f"{module_name} has no {path}") from None
    if expected.signature is not None:
        found = signature_of(value)
        if found != expected.signature:
            raise MismatchError(f"{path} of {module_name} takes {found}, not {expected.signature}")
    return owner, name, value


def _own_function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"{_HERE}.{module}"), function)
    return found


def _is_missing(module: str) -> bool:
    try:
        return find_spec(module) is None
    except (ImportError, ValueError):
        return True


def _checkpoint_release() -> str:
    try:
        version = importlib.import_module(f"{_CHECKPOINT}.toplevel.version")
        return str(version.package_version)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, its release is unknown
        return "(none found)"
