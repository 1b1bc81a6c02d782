"""Repositories of the Hugging Face Hub in a flow's datastore: what ``@huggingface_hub`` does."""
