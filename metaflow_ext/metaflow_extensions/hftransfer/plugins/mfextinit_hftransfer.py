"""The plugins that the extension registers with Metaflow.

Metaflow imports the modules named here on every ``import metaflow``. They import nothing
heavy and nothing optional.
"""

STEP_DECORATORS_DESC = [
    ("huggingface_hub", ".decorator.HuggingfaceHubDecorator"),
]

# Replaces metaflow-checkpoint's datastore of the same name; see `s3_storage`.
DATASTORES_DESC = [
    ("s3-compatible", ".s3_storage.HftransferS3Storage"),
]
