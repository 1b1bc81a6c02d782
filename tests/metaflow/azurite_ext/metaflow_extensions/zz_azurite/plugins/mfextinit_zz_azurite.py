"""Registers the credentials of the Azure emulator azurite with Metaflow."""

AZURE_CLIENT_PROVIDERS_DESC = [("azurite", ".azurite.AzuriteClientProvider")]
