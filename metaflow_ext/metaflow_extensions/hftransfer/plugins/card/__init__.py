"""The card ``huggingface_hub_models``, and where cards are stored."""
