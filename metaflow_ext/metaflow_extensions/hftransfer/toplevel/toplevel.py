"""Name and version of the extension, as Metaflow's own version banner shows them."""

from importlib.metadata import PackageNotFoundError, version

__mf_extensions__ = "hftransfer"

try:
    __version__: "str | None" = version("hftransfer")
except PackageNotFoundError:  # run from a checkout on PYTHONPATH
    __version__ = None
