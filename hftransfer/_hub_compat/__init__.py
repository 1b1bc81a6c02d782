"""huggingface_hub's `snapshot_download` and `hf_hub_download`, compatible on disk and in errors."""
