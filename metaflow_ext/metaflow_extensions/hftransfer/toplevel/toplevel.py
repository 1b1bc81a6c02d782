"""Name and version of the extension, for Metaflow's version banner; installs its patches.

Metaflow imports this module at the end of ``import metaflow``, when all plugins are loaded,
and copies its public names into the package `metaflow`. Modules are not copied, so this
module imports nothing else.
"""

import importlib.metadata

import metaflow_extensions.hftransfer.plugins.patches.install

__mf_extensions__ = "hftransfer"

try:
    __version__: "str | None" = importlib.metadata.version("hftransfer")
except importlib.metadata.PackageNotFoundError:  # run from a checkout on PYTHONPATH
    __version__ = None

metaflow_extensions.hftransfer.plugins.patches.install.install_patches()
