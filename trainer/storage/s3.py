"""Objects in a bucket of Amazon S3, or of a server that speaks its protocol."""

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.store import S3Store

from trainer.errors import ConfigError, UnavailableError
from trainer.storage.objects import (
    ObjectStorage,
    Remedy,
    Service,
    check_endpoint,
    read_authority,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, S3Config

ALLOW_HTTP = "AWS_ALLOW_HTTP"

_RENEW = "get new ones, such as with aws sso login"
_REMEDIES = {
    "InvalidAccessKeyId": Remedy(ConfigError, "check AWS_ACCESS_KEY_ID, and which store it is for"),
    "SignatureDoesNotMatch": Remedy(ConfigError, "check AWS_SECRET_ACCESS_KEY"),
    "InvalidToken": Remedy(ConfigError, "check AWS_SESSION_TOKEN; keys that last have none"),
    "ExpiredToken": Remedy(UnavailableError, f"the credentials are too old; {_RENEW}"),
    "ExpiredTokenException": Remedy(UnavailableError, f"the credentials are too old; {_RENEW}"),
    "RequestTimeTooSkewed": Remedy(UnavailableError, "set this machine's clock (timedatectl)"),
    "AuthorizationHeaderMalformed": Remedy(ConfigError, "set AWS_REGION to the bucket's region"),
    "PermanentRedirect": Remedy(ConfigError, "set AWS_REGION to the bucket's region"),
    "IllegalLocationConstraintException": Remedy(
        ConfigError, "set AWS_REGION to the bucket's region"
    ),
}


class S3Storage(ObjectStorage):
    """Objects of a bucket whose names start with a prefix; settings come from the environment.

    Credentials are looked for where AWS's own tools look: AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, web identity (IRSA), container credentials (EKS Pod Identity), the
    instance's metadata. AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL leads to another server, with
    path-style addresses unless AWS_VIRTUAL_HOSTED_STYLE_REQUEST is true.
    """

    def __init__(self, bucket: str, prefix: str = "", *, deadline: float = 120.0) -> None:
        uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, and the
        # capitals and underscores of other servers.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", bucket):
            raise ConfigError(
                f"storage {uri!r}: {bucket!r} is no bucket name "
                "(3 to 63 of a-z, 0-9, '-' and '.'); give s3://BUCKET[/PREFIX]"
            )
        super().__init__(uri, bucket, prefix, _service(bucket), deadline)


def _service(bucket: str) -> Service:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    variable = next(
        (name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), ""
    )
    endpoint = os.environ.get(variable, "").rstrip("/")
    if endpoint:
        check_endpoint(endpoint, variable, ALLOW_HTTP)
    virtual = os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in ("1", "true")

    def connect(options: "ClientConfig") -> "ObjectStore":
        where: S3Config = {"region": region, "virtual_hosted_style_request": virtual}
        if endpoint:
            address = endpoint.replace("://", f"://{bucket}.", 1) if virtual else endpoint
            where |= {"endpoint": address, "aws_endpoint_url_s3": address}
        return S3Store(
            bucket,
            disable_bulk_delete=True,  # one object at a time, and not all servers have it
            client_options=options,
            retry_config={"max_retries": 0},  # retries.py has them
            config=where,
        )

    return Service(
        bucket="bucket",
        connect=connect,
        endpoint=endpoint or f"https://s3.{region}.amazonaws.com",
        authority=read_authority("AWS_CA_BUNDLE", "SSL_CERT_FILE"),
        remedies=_REMEDIES,
        denied=(
            f"grant this identity s3:ListBucket on {bucket} and s3:GetObject, s3:PutObject, "
            "s3:DeleteObject on its objects"
        ),
        credentials=(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE on a laptop; give "
            "a pod's service account a role (IRSA or EKS Pod Identity)"
        ),
        certificate=f"put the file of {urlsplit(endpoint).hostname}'s authority in AWS_CA_BUNDLE",
        missing="NoSuchBucket",
    )
