"""aws-crt's S3 client used directly, with path-style requests: boto3's way cannot name an IP."""

from __future__ import annotations

import json
import os
import sys
from threading import Semaphore
from typing import Any
from urllib.parse import quote, urlsplit

from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RequestType, create_default_s3_signing_config

_AT_A_TIME = 64


def main() -> None:
    """Do the job."""
    with open(sys.argv[1]) as file:
        job: dict[str, Any] = json.load(file)
    group = EventLoopGroup()
    region = os.environ["AWS_REGION"]
    credentials = AwsCredentialsProvider.new_static(
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    )
    client = S3Client(
        bootstrap=ClientBootstrap(group, DefaultHostResolver(group)),
        region=region,
        signing_config=create_default_s3_signing_config(
            region=region, credential_provider=credentials
        ),
        tls_mode=S3RequestTlsMode.DISABLED,
        part_size=8 << 20,
        throughput_target_gbps=10,
    )
    get = job["folder"].startswith(job["scratch"])
    host = urlsplit(job["endpoint"]).netloc
    gate = Semaphore(_AT_A_TIME)
    futures = []
    for file in job["files"]:
        local = os.path.join(job["folder"], file["path"])
        headers = HttpHeaders([("Host", host)])
        if not get:
            headers.add("Content-Length", str(file["size"]))
            headers.add("Content-Type", "application/octet-stream")
        target = f"/{job['bucket']}/{quote(job['prefix'] + file['path'])}"
        gate.acquire()
        request = client.make_request(
            type=S3RequestType.GET_OBJECT if get else S3RequestType.PUT_OBJECT,
            request=HttpRequest("GET" if get else "PUT", target, headers),
            on_done=lambda **_: gate.release(),
            **{"recv_filepath" if get else "send_filepath": local},
        )
        futures.append(request.finished_future)
    for future in futures:
        future.result()


if __name__ == "__main__":
    main()
