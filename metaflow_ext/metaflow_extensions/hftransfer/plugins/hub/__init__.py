"""Repositories of the Hugging Face Hub in a flow's datastore, behind ``@huggingface_hub``."""
