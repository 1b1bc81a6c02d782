"""Values and pure functions: chunk plans, byte ranges, digests, manifests, progress events.

Nothing here opens a socket or starts a thread, and only `memory` reads files (below ``/proc`` and
``/sys``). Imports: `hftransfer.errors`, the standard library, xxhash and CRC libraries.
"""
