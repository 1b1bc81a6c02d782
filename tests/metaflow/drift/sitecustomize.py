"""Changes metaflow-checkpoint's source text as it is imported: another release of it.

``DRIFT`` is a JSON list of pairs of texts: each first text is replaced by the second. Python must
not find compiled files (``PYTHONPYCACHEPREFIX``), because these have the unchanged source.
"""

from __future__ import annotations

import json
import os
from importlib.machinery import SourceFileLoader
from typing import Any

CHANGES = json.loads(os.environ.get("DRIFT", "[]"))
_original = SourceFileLoader.source_to_code


def source_to_code(self: Any, data: Any, path: Any, **options: Any) -> Any:
    """Compile a module whose text may be changed."""
    if "obcheckpoint" in str(path):
        for old, new in CHANGES:
            data = bytes(data).replace(old.encode(), new.encode())
    return _original(self, data, path, **options)


SourceFileLoader.source_to_code = source_to_code  # type: ignore[method-assign]
