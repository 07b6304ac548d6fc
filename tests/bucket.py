"""A bucket of S3 on a server of this machine."""

import os
from contextlib import contextmanager

import pytest


@contextmanager
def bucket():
    """The bucket, and the environment in which fsspec finds it as s3://bucket."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        login = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
        made = boto3.resource(
            "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none"
        ).create_bucket(Bucket="bucket")
        yield made, {**os.environ, **login, "AWS_ENDPOINT_URL": address}
    finally:
        server.stop()
