"""All that this extension replaces in Metaflow and metaflow-checkpoint.

This module is data. `install` checks it against the installed releases and replaces the
targets. The patches of one feature only make sense together: if one of its targets or
requirements is missing or has another signature, the whole feature is disabled, and the
others are installed.
"""

from __future__ import annotations

from dataclasses import dataclass

KNOWN_RELEASES = ("0.2.",)
"""Prefixes of the releases of metaflow-checkpoint whose behaviour this extension knows."""

_CHECKPOINT = "metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities"
_CHECKPOINT_DECORATOR = f"{_CHECKPOINT}.checkpoints.decorator:CheckpointDecorator"
_MODEL_DECORATOR = f"{_CHECKPOINT}.modeling_utils.decorator:ModelDecorator"
_OBJECT_STORAGE = f"{_CHECKPOINT}.datastore.core:ObjectStorage"
_CONTEXT = f"{_CHECKPOINT}.datastore.context"
_STORE_CONTEXT = f"{_CONTEXT}:ArtifactStoreContext"

_STEP_INIT = "(self, flow, graph, step_name, decorators, environment, flow_datastore, logger)"
_TASK_PRE_STEP = (
    "(self, step_name, task_datastore, metadata, run_id, task_id, flow, graph, retry_count, "
    "max_user_code_retries, ubf_context, inputs)"
)


@dataclass(frozen=True)
class Requirement:
    """Something that the wrappers of a feature use and that is not replaced."""

    target: str
    """``module:name`` or ``module:Class.name``."""
    signature: str | None = None
    """The expected parameters; None if it only has to exist."""


@dataclass(frozen=True)
class Patch:
    """One function that is replaced."""

    target: str
    """``module:name`` or ``module:Class.name``."""
    signature: str
    """The expected parameters, as `signatures.signature_of` writes them."""
    wrapper: str
    """``module:function`` in this package: takes the original, returns the replacement."""


@dataclass(frozen=True)
class Feature:
    """Patches that are installed together or not at all."""

    name: str
    """For the log line that says that the feature is disabled."""
    why: str
    patches: tuple[Patch, ...]
    requires: tuple[Requirement, ...] = ()
    after: str | None = None
    """``module:function`` in this package, called without arguments when all is replaced."""


_KEYS = (
    Requirement(f"{_OBJECT_STORAGE}.resolve_key_full_url", "(self, key)"),
    Requirement(f"{_OBJECT_STORAGE}.resolve_key_relative_path", "(self, key)"),
)

FEATURES = (
    Feature(
        "saving files with the engine",
        "Metaflow starts a process per save and sends every file from a process of its own.",
        (
            Patch(
                f"{_OBJECT_STORAGE}._save_objects",
                "(self, key, local_path)",
                "object_storage:save_objects",
            ),
        ),
        requires=_KEYS,
    ),
    Feature(
        "saving archives with the engine",
        "metaflow-checkpoint writes the whole archive to the local disk, twice, and then sends it.",
        (
            Patch(
                f"{_OBJECT_STORAGE}._save_tarball",
                "(self, key, local_path)",
                "object_storage:save_tarball",
            ),
        ),
        requires=_KEYS,
    ),
    Feature(
        "loading files with the engine",
        "Metaflow starts a process per folder, writes every file twice and checks its size only.",
        (
            Patch(
                f"{_OBJECT_STORAGE}._load_objects",
                "(self, key, local_directory)",
                "object_storage:load_objects",
            ),
        ),
        requires=_KEYS,
    ),
    Feature(
        "loading archives with the engine",
        "metaflow-checkpoint stores the whole archive on the local disk before it unpacks it.",
        (
            Patch(
                f"{_OBJECT_STORAGE}._load_tarball",
                "(self, key, local_path)",
                "object_storage:load_tarball",
            ),
        ),
        requires=_KEYS,
    ),
    Feature(
        "packaging the engine with flows that use @checkpoint or @model",
        "Metaflow packages for remote tasks the modules that are loaded when the flow starts.",
        (
            Patch(f"{_CHECKPOINT_DECORATOR}.step_init", _STEP_INIT, "decorators:package_engine"),
            Patch(f"{_MODEL_DECORATOR}.step_init", _STEP_INIT, "decorators:package_engine"),
        ),
    ),
    Feature(
        "a code package without compiled files and tests of the engine",
        "Metaflow adds all files of an installed distribution, also those that no task uses.",
        (
            Patch(
                "metaflow.packaging_sys.v1:MetaflowCodeContentV1._module_files",
                "(self, name, paths)",
                "code_package:without_unused_modules",
            ),
            Patch(
                "metaflow.packaging_sys.v1:MetaflowCodeContentV1._metaflow_extension_files",
                "(self)",
                "code_package:without_compiled_files",
            ),
        ),
    ),
    Feature(
        "checkpoints and models in the flow's own datastore",
        "metaflow-checkpoint uses the configured datastore and ignores --datastore and "
        "--datastore-root.",
        (
            Patch(
                f"{_CHECKPOINT_DECORATOR}.step_init",
                _STEP_INIT,
                "flow_datastore:remember_on_step_init",
            ),
            Patch(
                f"{_MODEL_DECORATOR}.step_init",
                _STEP_INIT,
                "flow_datastore:remember_on_step_init",
            ),
            Patch(f"{_STORE_CONTEXT}.default", "(self)", "flow_datastore:default"),
            Patch(
                f"{_CHECKPOINT}.checkpoints.core:ReadResolver.from_checkpoint",
                "(checkpoint)",
                "flow_datastore:from_checkpoint",
            ),
            Patch(
                f"{_CHECKPOINT}.checkpoints.core:resolve_task_storage_backend",
                "(pathspec)",
                "flow_datastore:resolve_task_storage_backend",
            ),
            Patch(
                f"{_CHECKPOINT}.datastructures:CheckpointArtifact._load",
                "(self, storage_backend, local_path)",
                "flow_datastore:load_artifact",
            ),
            Patch(
                f"{_CHECKPOINT}.datastructures:ModelArtifact._load",
                "(self, storage_backend, local_path)",
                "flow_datastore:load_artifact",
            ),
        ),
        requires=(
            Requirement(f"{_STORE_CONTEXT}.get", "(self)"),
            Requirement(f"{_STORE_CONTEXT}._runtime_ds_type", "(self, ds_type)"),
            Requirement(f"{_STORE_CONTEXT}.current_context"),
            Requirement(f"{_STORE_CONTEXT}.MF_DATASTORES"),
            Requirement(f"{_CONTEXT}:datastore_context"),
            Requirement(
                f"{_CHECKPOINT}.checkpoints.core:CheckpointDatastore.init_read_store",
                "(storage_backend, pathspec, checkpoint_key)",
            ),
        ),
    ),
    Feature(
        "cards of @checkpoint and @model without a process for each update",
        "Metaflow starts a process for each update of a card, and a step waits for up to four "
        "of them at its end.",
        (
            Patch(
                "metaflow.plugins.cards.card_creator:CardCreator._run_cards_subprocess",
                "(self, card_uuid, user_set_card_id, mode, runspec, decorator_attributes, "
                "card_options, component_strings, logger, data, final, sync, save_metadata, "
                "metadata_dict)",
                "inline_cards:run_in_this_process",
            ),
            Patch(
                f"{_CHECKPOINT_DECORATOR}.task_pre_step",
                _TASK_PRE_STEP,
                "inline_cards:record_task",
            ),
            Patch(f"{_MODEL_DECORATOR}.task_pre_step", _TASK_PRE_STEP, "inline_cards:record_task"),
        ),
    ),
    Feature(
        "immediate end of the card thread of @checkpoint",
        "The thread sleeps for three seconds between updates, and the step waits for it.",
        (
            Patch(
                f"{_CHECKPOINT}.checkpoints.decorator:CheckpointsCollector.__init__",
                "(self, refresher, interval)",
                "card_threads:interruptible_pause",
            ),
        ),
    ),
    Feature(
        "immediate end of the card thread of @model",
        "The thread sleeps for one second between updates, and the step waits for it.",
        (
            Patch(
                f"{_CHECKPOINT}.modeling_utils.decorator:ModelsCollector.__init__",
                "(self, refresher, interval)",
                "card_threads:interruptible_pause",
            ),
        ),
    ),
    Feature(
        "removal of models that a killed attempt did not finish saving",
        "Every save of a model has a new key, so a retry neither continues nor overwrites it.",
        (
            Patch(
                f"{_MODEL_DECORATOR}.task_pre_step",
                _TASK_PRE_STEP,
                "decorators:remove_unfinished_saves",
            ),
        ),
        requires=(
            Requirement(f"{_STORE_CONTEXT}.get", "(self)"),
            Requirement(f"{_CONTEXT}:datastore_context"),
        ),
    ),
    Feature(
        "@checkpoint without access to the run's metadata",
        "metaflow-checkpoint reads the run's tags from the metadata service and fails without it.",
        (
            Patch(
                f"{_CHECKPOINT_DECORATOR}._resolve_scope",
                "(self)",
                "missing_metadata:resolve_scope",
            ),
        ),
        requires=(
            Requirement(f"{_CHECKPOINT}.checkpoints.constants:CHECKPOINT_TAG_PREFIX"),
            Requirement(f"{_CHECKPOINT}.checkpoints.core:ScopeResolver.from_tags", "(tags)"),
            Requirement(f"{_CHECKPOINT}.checkpoints.core:ScopeResolver.from_namespace", "()"),
        ),
    ),
    Feature(
        "the card of @checkpoint without access to the run's metadata",
        "The lineage that the card shows is read from the metadata service.",
        (
            Patch(
                f"{_CHECKPOINT}.checkpoints.decorator:trace_lineage",
                "(flow, checkpoint)",
                "missing_metadata:trace_lineage",
            ),
        ),
    ),
    Feature(
        "hiding the credentials of @with_artifact_store",
        "metaflow-checkpoint exports them in an environment variable and stores them with the run.",
        (
            Patch(
                f"{_STORE_CONTEXT}.flow_init_context",
                "(self, *args, **kwargs)",
                "credentials:hide_configuration",
            ),
            Patch(
                f"{_CHECKPOINT}.datastore.decorator:ArtifactStoreFlowDecorator._export_context",
                "(self)",
                "credentials:keep_configuration_out_of_attributes",
            ),
        ),
        requires=(
            Requirement(f"{_STORE_CONTEXT}.switch_context", "(self, context)"),
            Requirement(f"{_STORE_CONTEXT}.current_context"),
            Requirement(f"{_CONTEXT}:datastore_context"),
            Requirement(f"{_CONTEXT}:ARTIFACT_STORE_CONFIG_ENV_VAR"),
        ),
        after="credentials:adopt_hidden_configuration",
    ),
)

DECORATOR = Feature(
    "hftransfer's @huggingface_hub",
    "The decorator stores its entries through metaflow-checkpoint, as that stores checkpoints. "
    "Where it cannot, metaflow-checkpoint's own decorator takes its place.",
    (),
    requires=(
        Requirement(f"{_CHECKPOINT}.checkpoints.constants:CHECKPOINT_TAG_PREFIX"),
        Requirement(f"{_CHECKPOINT}.checkpoints.constants:CHECKPOINT_TASK_IDENTIFIER_ENV_VAR_NAME"),
        Requirement(f"{_CHECKPOINT}.checkpoints.constants:CHECKPOINT_UID_ENV_VAR_NAME"),
        Requirement(f"{_CHECKPOINT}.checkpoints.constructors:load_checkpoint"),
        Requirement(
            f"{_CHECKPOINT}.checkpoints.constructors:_instantiate_checkpoint_for_writes",
            "(checkpoint_object, flow, task_identifier, scope, gang_scheduled_task)",
        ),
        Requirement(f"{_CHECKPOINT}.checkpoints.core:Checkpointer.current_version"),
        Requirement(f"{_CHECKPOINT}.checkpoints.core:Checkpointer._update_version", "(self)"),
        Requirement(
            f"{_CHECKPOINT}.checkpoints.core:Checkpointer._list_checkpoints",
            "(self, name, attempt, within_task)",
        ),
        Requirement(f"{_CHECKPOINT}.checkpoints.core:CheckpointDatastore._NAME_ENTROPY"),
        Requirement(
            f"{_CHECKPOINT}.checkpoints.core:CheckpointDatastore.create_key_name", "(self, *args)"
        ),
        Requirement(
            f"{_CHECKPOINT}.checkpoints.core:CheckpointDatastore.save",
            "(self, local_path, attempt, version_id, name, metadata, set_latest, storage_format)",
        ),
        Requirement(
            f"{_CHECKPOINT}.checkpoints.core:CheckpointDatastore.init_read_store",
            "(storage_backend, pathspec, checkpoint_key)",
        ),
        Requirement(f"{_OBJECT_STORAGE}._save_metadata", "(self, key, metadata)"),
        Requirement(f"{_CHECKPOINT}.checkpoints.core:ScopeResolver.from_tags", "(tags)"),
        Requirement(f"{_CHECKPOINT}.checkpoints.core:ScopeResolver.from_namespace", "()"),
        Requirement(f"{_CHECKPOINT}.checkpoints.final_api:Checkpoint"),
        Requirement(f"{_OBJECT_STORAGE}._save_objects", "(self, key, local_path)"),
        Requirement(f"{_OBJECT_STORAGE}.resolve_key_relative_path", "(self, key)"),
        Requirement(f"{_OBJECT_STORAGE}.resolve_key_full_url", "(self, key)"),
        Requirement(f"{_OBJECT_STORAGE}.delete_prefix", "(self, key_prefix)"),
        Requirement(
            f"{_CHECKPOINT}.datastore.decorator:set_datastore_context",
            "(flow, metadata, run_id, step_name, task_id, retry_count)",
        ),
        Requirement(
            f"{_CHECKPOINT}.hf_hub.decorator:init_hf_checkpoint",
            "(checkpoint, cache_scope, flow_name)",
        ),
        Requirement(
            f"{_CHECKPOINT}.utils.flowspec_utils:resolve_task_identifier",
            "(run, gang_scheduled_task, gang_schedule_task_idf_index)",
        ),
    ),
)
"""What `decorator` and the modules below it use without replacing it."""

S3_DATASTORE = Feature(
    "hftransfer's datastore s3-compatible",
    "It lists and deletes through Metaflow's S3 client. Where it cannot, metaflow-checkpoint's "
    "own datastore takes its place.",
    (),
    requires=(
        Requirement("metaflow.plugins.datatools.s3.s3:S3.info", "(self, key, return_missing)"),
        Requirement(
            "metaflow.plugins.datatools.s3.s3:S3._one_boto_op",
            "(self, op, url, create_tmp_file)",
        ),
    ),
)
"""What `s3_storage` uses without replacing it."""
