"""What is replaced in Metaflow and metaflow-checkpoint: `table` lists it, `install` does it."""
