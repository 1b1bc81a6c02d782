"""The card ``huggingface_hub_models``."""
