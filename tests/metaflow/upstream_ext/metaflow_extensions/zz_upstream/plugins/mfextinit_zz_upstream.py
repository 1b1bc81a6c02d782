"""Registers metaflow-checkpoint's own decorator as ``huggingface_hub`` again.

A folder on PYTHONPATH comes after every installed extension, and the last one wins.
"""

_MODULE = "metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.hf_hub.decorator"

STEP_DECORATORS_DESC = [("huggingface_hub", f"{_MODULE}.HuggingfaceHubDecorator")]
