"""Stands in for the configuration of a cluster."""


def load_kube_config() -> None:
    """Do nothing."""


def load_incluster_config() -> None:
    """Do nothing."""
