"""The HTTP/1.1 client: bodies received into the caller's memory and sent from where they are.

`client` is the entrance; only `aiohttp_client` and `aiohttp_session` import aiohttp.
"""
