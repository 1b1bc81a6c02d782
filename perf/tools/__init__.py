"""The measured programs: how each is found and started."""
