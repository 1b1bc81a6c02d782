"""The async client and its operations: copy, verify and list, between locations."""
