"""The HTTP/1.1 client: bodies are received into the caller's memory and sent from where they are.

`client` is the entry point. Only `aiohttp_client` and `aiohttp_session` import aiohttp. `loops`
lists the objects that several threads share.
"""
