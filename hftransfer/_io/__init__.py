"""Local files, buffers, worker threads, limits and retries.

Used by the HTTP client, the stores and the engine. Imports only what is in `_core` and the public
modules for options and errors.
"""
