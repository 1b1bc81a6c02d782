"""What is replaced in Metaflow and metaflow-checkpoint."""
