"""A datastore in Azure's blob storage, which metaflow-checkpoint's own code reads and writes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

pytest.importorskip("metaflow.decorators")
pytest.importorskip("azure.identity")
pytest.importorskip("azure.storage.blob")

from hftransfer.testing import HubServer
from support.metaflow_flows import FILES, REPO, TESTS, FlowRunner

AZURITE = os.environ.get("HFTRANSFER_AZURITE") or shutil.which("azurite-blob")

pytestmark = [
    pytest.mark.metaflow,
    pytest.mark.extended,
    pytest.mark.timeout(300),
    pytest.mark.skipif(AZURITE is None, reason="azurite is not installed (npm install azurite)"),
]

ACCOUNT = "devstoreaccount1"
# The key of azurite's only account, from its documentation.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture
def azure_runner(model_hub: HubServer, tmp_path: Path) -> Iterator[FlowRunner]:
    """Runs flows on a new container of azurite."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    # Metaflow's client has tokens only, which azurite accepts over TLS.
    command = [
        *(str(AZURITE), "--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck"),
        *("--oauth", "basic", "--cert", str(tmp_path / "cert.pem")),
        *("--key", str(tmp_path / "key.pem")),
    ]
    with subprocess.Popen(
        [*command, "--silent", "--disableTelemetry"], cwd=tmp_path, stdin=subprocess.DEVNULL
    ) as server:
        try:
            endpoint = f"https://127.0.0.1:{port}/{ACCOUNT}"
            _create_container(endpoint, str(tmp_path / "ca.pem"), server)
            paths = [str(TESTS / "metaflow" / "azurite_ext"), os.environ.get("PYTHONPATH", "")]
            environ = {
                **model_hub.environ(),
                "METAFLOW_AZURE_STORAGE_BLOB_SERVICE_ENDPOINT": endpoint,
                "METAFLOW_DATASTORE_SYSROOT_AZURE": "flows/root",
                "METAFLOW_DEFAULT_AZURE_CLIENT_PROVIDER": "azurite",
                "METAFLOW_DEFAULT_DATASTORE": "azure",
                "REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem"),
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            }
            (tmp_path / "flows").mkdir()
            yield FlowRunner(tmp_path / "flows", environ)
        finally:
            server.terminate()


def _create_container(endpoint: str, authority: str, server: subprocess.Popen[bytes]) -> None:
    from azure.core.credentials import AzureNamedKeyCredential
    from azure.core.exceptions import ServiceRequestError
    from azure.storage.blob import BlobServiceClient

    client = BlobServiceClient(
        endpoint,
        credential=AzureNamedKeyCredential(ACCOUNT, KEY),
        retry_total=0,
        connection_verify=authority,
    )
    until = time.monotonic() + 60
    while True:
        try:
            client.create_container("flows")
            return
        except ServiceRequestError:
            assert server.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)


def test_repositories_are_stored_and_found_in_azure(azure_runner: FlowRunner) -> None:
    """Metaflow's code moves the data, one line says so, and the second run is a hit."""
    probe = {"load": [REPO], "calls": [{"repo_id": REPO, "allow_patterns": "*.json"}]}

    runs = [azure_runner.run("probe_flow.py", probe=probe) for _ in range(2)]

    for run, hit in zip(runs, (False, True), strict=True):
        assert run.probe["info"][REPO]["cache_hit"] is hit
        assert set(run.probe["files"][REPO]) == set(FILES)
        assert run.output.count("(unsupported datastore: azure)") == 1
        assert "every file verified" in run.output
    keys = [[reference["key"] for reference in run.probe["references"]] for run in runs]
    assert keys[0] == keys[1]
