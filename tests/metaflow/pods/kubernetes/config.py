"""There is no cluster to be configured."""


def load_kube_config() -> None:
    """Do nothing."""


def load_incluster_config() -> None:
    """Do nothing."""
