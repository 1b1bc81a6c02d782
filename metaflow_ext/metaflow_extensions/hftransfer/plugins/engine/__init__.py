"""The engine on a datastore of Metaflow: settings, transfers, and their data.

Nothing here knows `@huggingface_hub`, cards or the patches of metaflow-checkpoint.
"""
