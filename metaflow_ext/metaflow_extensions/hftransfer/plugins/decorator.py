"""The step decorator: validates its attributes, loads before the step, cleans up after it.

Imported on every ``import metaflow``, so it imports nothing but Metaflow at first.
"""

from __future__ import annotations

import json
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from metaflow.decorators import StepDecorator

from metaflow_extensions.hftransfer.plugins.engine.cache_key import CACHE_SCOPES
from metaflow_extensions.hftransfer.plugins.engine.flow_env import remember_datastore
from metaflow_extensions.hftransfer.plugins.engine.load_names import check_loads
from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    HuggingfaceHubError,
    ignored_arguments,
    parse_load,
    without_credentials,
)
from metaflow_extensions.hftransfer.plugins.engine.requirements import announce_missing_packages
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once
from metaflow_extensions.hftransfer.plugins.patches.install import obstacle
from metaflow_extensions.hftransfer.plugins.patches.table import DECORATOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaflow_extensions.hftransfer.plugins.card.hub_card import HubCard
    from metaflow_extensions.hftransfer.plugins.hub.step_api import HuggingfaceHub

_CHECKPOINT = "metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities"
_INCUMBENT = f"{_CHECKPOINT}.hf_hub.decorator"
_INSTALL = 'Install it where the step runs, with: pip install "hftransfer[metaflow]"'


@cache
def _obstacle() -> str:
    """Return why this decorator cannot use metaflow-checkpoint, or an empty text."""
    try:
        if find_spec(_CHECKPOINT) is None:
            return ""  # `step_init` says so
    except ModuleNotFoundError:
        return ""
    return obstacle(DECORATOR)


def _incumbent() -> type[StepDecorator] | None:
    """Return the class of metaflow-checkpoint's own decorator, or None if there is none."""
    try:
        found: type[StepDecorator] = import_module(_INCUMBENT).HuggingfaceHubDecorator
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it cannot be used
        return None
    return found


class HuggingfaceHubDecorator(StepDecorator):
    """
    Loads models and datasets of the Hugging Face Hub, and stores them in the datastore.

    The first task that needs a repository downloads and stores it. Later tasks, of this run
    and of others, load it from the datastore.

    Examples
    --------

    ```python
    @huggingface_hub(load=["bert-base-uncased", ("org/dataset", "./data")])
    @step
    def train(self):
        path = current.huggingface_hub.loaded["bert-base-uncased"]

    @huggingface_hub
    @step
    def pull(self):
        self.llm = current.huggingface_hub.snapshot_download(
            repo_id=self.repo_id, allow_patterns=["*.safetensors", "*.json"]
        )
        self.next(self.use)

    @model(load="llm")
    @step
    def use(self):
        path = current.model.loaded["llm"]
    ```

    Parameters
    ----------
    load : Union[List[str], List[Tuple[str, str]], List[Tuple[Dict, str]], List[Dict], None]
        Repositories to load before the step starts. An entry is a repository id, a dict
        with ``repo_id`` and further arguments of ``huggingface_hub.snapshot_download``, or
        a pair of either and the path of the folder for the files. Without a path they go to
        a temporary folder that is removed after the step.
    cache_scope : str, default "checkpoint"
        Which tasks share the stored copies: those of the same step in the same namespace
        (``checkpoint``), of all runs of the flow (``flow``), or of all flows (``global``).
    temp_dir_root : str, optional
        The parent of temporary folders. Default: that of the `tempfile` module.

    MF Add To Current
    -----------------
    huggingface_hub -> metaflow_extensions.hftransfer.plugins.hub.step_api.HuggingfaceHub
        The paths of the repositories in ``load=`` (``loaded``), and ``snapshot_download`` and
        ``load`` for repositories that are known only when the step runs.

        @@ Returns
        ----------
        HuggingfaceHub
    """

    name = "huggingface_hub"
    defaults = {  # noqa: RUF012 - Metaflow copies it per instance
        "load": None,
        "cache_scope": "checkpoint",
        "temp_dir_root": None,
    }

    _logger: Any = None
    _given_load: list[Any] | None = None
    _flow_datastore: Any = None
    _hub: HuggingfaceHub | None = None
    _register: Callable[[], None]
    """Registers the loaded entries in the task's metadata."""
    _card: HubCard | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return metaflow-checkpoint's own decorator if that package is not as expected.

        Found out here and not on import: flows without this decorator do not need the answer.
        """
        reason = _obstacle()
        incumbent = _incumbent() if reason else None
        if incumbent is None:
            return super().__new__(cls)
        log_once(f"Disabled: {DECORATOR.name}; metaflow-checkpoint's own is used. Reason: {reason}")
        return incumbent(*args, **kwargs)

    def step_init(
        self,
        flow: Any,
        graph: Any,
        step_name: str,
        decorators: Any,
        environment: Any,
        flow_datastore: Any,
        logger: Any,
    ) -> None:
        self._logger = logger
        self._flow_datastore = flow_datastore
        cache_scope = self.attributes["cache_scope"]
        if cache_scope not in CACHE_SCOPES:
            raise HuggingfaceHubError(
                f"cache_scope of step {step_name} must be one of {', '.join(CACHE_SCOPES)}, "
                f"not {cache_scope!r}."
            )
        self._require_packages(step_name)
        announce_missing_packages(flow_datastore)
        remember_datastore(flow_datastore)
        self._requests = parse_load(self.attributes["load"])
        check_loads(self._requests, step_name)
        if line := ignored_arguments(self._requests):
            log_once(line)
        if self.attributes["load"]:
            # Metaflow stores the attributes of decorators with every run (`_graph_info`).
            self._given_load = self.attributes["load"]
            self.attributes["load"] = without_credentials(self._given_load)

    def make_decorator_spec(self) -> Any:
        """Return what `--with` gave, credentials included: it is the task's command line."""
        shown = self.attributes["load"]
        if self._given_load is not None:
            self.attributes["load"] = self._given_load
        try:
            return super().make_decorator_spec()
        finally:
            self.attributes["load"] = shown

    def task_pre_step(
        self,
        step_name: str,
        task_datastore: Any,
        metadata: Any,
        run_id: str,
        task_id: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
        ubf_context: Any,
        inputs: Any,
    ) -> None:
        from metaflow.metaflow_config import HFTRANSFER_LOCAL_LINKS, HFTRANSFER_PROGRESS_INTERVAL

        from metaflow import current
        from metaflow_extensions.hftransfer.plugins.card.hub_card import HubCard
        from metaflow_extensions.hftransfer.plugins.hub.cache import RepoCache
        from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import (
            open_checkpoint_store,
        )
        from metaflow_extensions.hftransfer.plugins.hub.step_api import HuggingfaceHub
        from metaflow_extensions.hftransfer.plugins.hub.transfer import RepoTransfers

        scope = self.attributes["cache_scope"]
        store = open_checkpoint_store(
            flow=flow,
            graph=graph,
            metadata=metadata,
            step_name=step_name,
            retry_count=retry_count,
            cache_scope=scope,
            temp_dir_root=self.attributes["temp_dir_root"],
            log=self._log,
        )
        self._card = HubCard(self._flow_datastore, current.pathspec, retry_count, scope, metadata)
        transfers = RepoTransfers(
            store,
            self._log,
            watch=self._card.watch,
            links=str(HFTRANSFER_LOCAL_LINKS).lower() in ("1", "true", "yes"),
            interval=float(HFTRANSFER_PROGRESS_INTERVAL),
        )
        may_retry = retry_count < max_user_code_retries
        task = f"{flow.name}/{run_id}/{step_name}/{task_id}"
        cache = RepoCache(store, transfers, scope, self._log, owner=task, may_retry=may_retry)
        self._card.follow(cache.accesses)
        self._hub = HuggingfaceHub(cache, task, self.attributes["temp_dir_root"], self._requests)
        current._update_env({"huggingface_hub": self._hub})
        self._card.start()
        self._register = partial(
            self._register_loaded, metadata, run_id, step_name, task_id, retry_count
        )

    def task_decorate(
        self,
        step_func: Any,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
        ubf_context: Any,
    ) -> Any:
        # Here `task_pre_step` of all decorators has run: the alarm of @timeout is set, wherever
        # it is written, and `current.card` has the cards of the user's own @card decorators.
        assert self._hub is not None
        assert self._card is not None
        self._card.attach_to_current()
        self._hub._load_declared()
        self._register()
        return step_func

    def task_exception(
        self,
        exception: BaseException,
        step_name: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
    ) -> None:
        self._cleanup(may_retry=retry_count < max_user_code_retries)

    def task_finished(
        self,
        step_name: str,
        flow: Any,
        graph: Any,
        is_task_ok: bool,
        retry_count: int,
        max_user_code_retries: int,
    ) -> None:
        # Not in task_post_step: Metaflow stores artifacts after it, and they may be files here.
        self._cleanup(may_retry=not is_task_ok and retry_count < max_user_code_retries)

    def _require_packages(self, step_name: str) -> None:
        # The engine is imported, not only looked for, because Metaflow packages for remote tasks
        # the modules that are loaded by now. It is light.
        try:
            import hftransfer  # noqa: F401
        except ImportError as error:
            raise HuggingfaceHubError(
                f"Step {step_name} needs the package hftransfer: {error}. {_INSTALL}"
            ) from error
        try:
            found = find_spec(_CHECKPOINT)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise HuggingfaceHubError(
                f"Step {step_name} needs the package metaflow-checkpoint. {_INSTALL}"
            )
        if reason := _obstacle():
            raise HuggingfaceHubError(
                f"Step {step_name} needs another release of metaflow-checkpoint: {reason}. "
                f"{_INSTALL}"
            )

    def _register_loaded(
        self, metadata: Any, run_id: str, step_name: str, task_id: str, retry_count: int
    ) -> None:
        from metaflow.metadata_provider import MetaDatum

        assert self._hub is not None
        keys = list({info["key"]: None for info in self._hub.loaded.info.values()})
        if keys:
            datum = MetaDatum(
                field="hf-loaded-models",
                value=json.dumps({"keys": keys}),
                type="model-registry",
                tags=[f"attempt_id:{retry_count}"],
            )
            metadata.register_metadata(run_id, step_name, task_id, [datum])

    def _log(self, message: str) -> None:
        self._logger(f"[@huggingface_hub] {message}", timestamp=False, bad=True)

    def _cleanup(self, *, may_retry: bool) -> None:
        if self._hub is not None:
            self._hub._cleanup(may_retry=may_retry)
        if self._card is not None:
            self._card.close()
            self._card = None
