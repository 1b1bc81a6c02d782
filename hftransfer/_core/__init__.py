"""Values and pure decisions: chunk plans, byte ranges, digests, manifests, progress events.

Nothing here opens a file, a socket or a thread. It imports `hftransfer.errors` and the standard
library, xxhash and a CRC library.
"""
