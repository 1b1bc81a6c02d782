"""Repositories on the Hugging Face Hub, read-only."""
