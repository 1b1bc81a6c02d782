"""Helpers that several tests share: servers, proxies, datastores."""
