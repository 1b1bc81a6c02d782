"""The engine reaches S3 as Metaflow's own client does, or leaves the datastore to that client."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("boto3")

from metaflow import metaflow_config
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.engine.s3_settings import s3_settings

pytestmark = pytest.mark.metaflow

BACKEND = SimpleNamespace(
    TYPE="s3-compatible", _s3_client_params=None, _s3_role_arn=None, _s3_session_vars=None
)


def backend(**parameters: Any) -> Any:
    return SimpleNamespace(**{**vars(BACKEND), "_s3_client_params": parameters})


@pytest.fixture(autouse=True)
def no_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metaflow_config, "DATATOOLS_CLIENT_PARAMS", {})


def test_settings_that_are_not_given_are_left_to_botocore() -> None:
    """Without settings the engine finds endpoint, region and credentials as botocore does."""
    assert s3_settings(BACKEND) == {}


def test_metaflows_parameters_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """METAFLOW_DATATOOLS_CLIENT_PARAMS and METAFLOW_S3_* apply if a backend has no parameters."""
    parameters = {"endpoint_url": "https://s3.local", "verify": "False"}
    monkeypatch.setattr(metaflow_config, "DATATOOLS_CLIENT_PARAMS", parameters)

    assert s3_settings(BACKEND) == {"endpoint_url": "https://s3.local", "verify": False}
    assert parameters == {"endpoint_url": "https://s3.local", "verify": "False"}


def test_a_backends_own_parameters_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of @with_artifact_store replace Metaflow's settings."""
    monkeypatch.setattr(metaflow_config, "DATATOOLS_CLIENT_PARAMS", {"endpoint_url": "https://a"})
    given = backend(
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        aws_session_token="token",
        region_name="eu-west-1",
        verify="/etc/ca.pem",
        config={"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 3}},
    )

    assert s3_settings(given) == {
        "access_key_id": "id",
        "secret_access_key": "secret",
        "session_token": "token",
        "region_name": "eu-west-1",
        "verify": "/etc/ca.pem",
        "addressing_style": "path",
    }


def test_a_config_object_means_the_same_as_its_dict() -> None:
    """Metaflow's provider makes a Config object from the dict; both are accepted."""
    from botocore.config import Config

    config = Config(s3={"addressing_style": "virtual"}, region_name="us-west-2", read_timeout=5)

    assert s3_settings(backend(config=config)) == {
        "addressing_style": "virtual",
        "region_name": "us-west-2",
    }


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"use_ssl": False}, "use_ssl"),
        ({"config": {"proxies": {"https": "http://p"}}}, "proxies"),
        ({"config": {"signature_version": "s3"}}, "signature_version"),
        ({"config": {"s3": {"use_accelerate_endpoint": True}}}, "s3.use_accelerate_endpoint"),
    ],
)
def test_a_setting_that_the_engine_lacks_is_refused(parameters: dict[str, Any], named: str) -> None:
    """The datastore is left to Metaflow's own client, and the reason names the setting."""
    with pytest.raises(UnsupportedByEngine, match=named):
        s3_settings(backend(**parameters))


def test_a_providers_credentials_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider gets the backend's role, and a copy of the parameters."""
    from metaflow.plugins.aws import aws_client

    asked: list[dict[str, Any]] = []

    class Provider:
        name = "ours"

        @staticmethod
        def get_client(module: str, with_error: bool = False, **options: Any) -> Any:
            import boto3  # type: ignore[import-untyped,unused-ignore]
            from botocore.exceptions import ClientError

            asked.append(options)
            options["client_params"]["config"] = "spoilt"
            client = boto3.session.Session(
                aws_access_key_id="AKIDPROVIDED",
                aws_secret_access_key="provided",
                aws_session_token="temporary",
                region_name="eu-north-1",
            ).client(module, endpoint_url="https://provided.local")
            return client, ClientError

    monkeypatch.setattr(aws_client, "cached_provider_class", Provider)
    given = backend(endpoint_url="https://provided.local")
    given._s3_role_arn = "arn:aws:iam::1:role/r"
    given._s3_session_vars = {"a": 1}

    settings = s3_settings(given)

    assert settings == {
        "access_key_id": "AKIDPROVIDED",
        "secret_access_key": "provided",
        "session_token": "temporary",
        "region_name": "eu-north-1",
        "endpoint_url": "https://provided.local",
    }
    assert asked[0]["role_arn"] == "arn:aws:iam::1:role/r"
    assert asked[0]["session_vars"] == {"a": 1}
    assert given._s3_client_params == {"endpoint_url": "https://provided.local"}


def test_settings_are_fields_of_the_engines_options() -> None:
    """The engine accepts all of them, and hides the secret in its repr."""
    from hftransfer import S3Options

    given = backend(aws_access_key_id="id", aws_secret_access_key="SECRET")
    options = S3Options(**s3_settings(given))

    assert dataclasses.asdict(options)["secret_access_key"] == "SECRET"
    assert "SECRET" not in repr(options)
