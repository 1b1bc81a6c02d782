"""What the extension registers with Metaflow.

Metaflow imports the modules named here on every ``import metaflow``; they import
nothing heavy and nothing optional.
"""

STEP_DECORATORS_DESC = [
    ("huggingface_hub", ".decorator.HuggingfaceHubDecorator"),
]

# In place of metaflow-checkpoint's of the same name: see `s3_storage`.
DATASTORES_DESC = [
    ("s3-compatible", ".s3_storage.HftransferS3Storage"),
]
