"""huggingface_hub's `snapshot_download` and `hf_hub_download`, with its cache, files and errors."""
