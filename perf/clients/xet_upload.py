"""Uploads files to a Xet CAS server and prints a JSON object from each path to its Xet hash.

Usage: ``xet_upload.py URL PATH…``.
"""

from __future__ import annotations

import json
import sys
import time

import hf_xet

url, *paths = sys.argv[1:]
with hf_xet.XetSession().new_upload_commit(
    endpoint=url, token="any", token_expiry_unix_secs=int(time.time()) + 3600
) as commit:
    uploads = {path: commit.start_upload_file(path) for path in paths}
print(json.dumps({path: upload.result().xet_info.hash for path, upload in uploads.items()}))
