"""The S3 client of aws-crt, used directly.

Requests are path-style, because the endpoint may be an IP address; boto3's integration of
aws-crt cannot send such requests.
"""

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

_REQUESTS = 64


def main() -> None:
    """Transfer every file of the run, 64 at a time; aws-crt splits each into parts."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
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
    get = spec["direction"] == "get"
    host = urlsplit(spec["endpoint"]).netloc
    semaphore = Semaphore(_REQUESTS)
    futures = []
    for file in spec["files"]:
        local = os.path.join(spec["folder"], file["path"])
        headers = HttpHeaders([("Host", host)])
        if not get:
            headers.add("Content-Length", str(file["size"]))
            headers.add("Content-Type", "application/octet-stream")
        target = f"/{spec['bucket']}/{quote(spec['prefix'] + file['path'])}"
        semaphore.acquire()
        request = client.make_request(
            type=S3RequestType.GET_OBJECT if get else S3RequestType.PUT_OBJECT,
            request=HttpRequest("GET" if get else "PUT", target, headers),
            on_done=lambda **_: semaphore.release(),
            **{"recv_filepath" if get else "send_filepath": local},
        )
        futures.append(request.finished_future)
    for future in futures:
        future.result()


if __name__ == "__main__":
    main()
