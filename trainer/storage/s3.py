"""Objects in a bucket of Amazon S3, or of a server that speaks its protocol."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.store import S3Store

from trainer.errors import ConfigError, CredentialsError, UnavailableError
from trainer.storage import aws_profile, endpoints
from trainer.storage.s3_and_azure import (
    ObjectStorage,
    Remedy,
    Service,
    check_sent,
    check_variables,
    read_authority,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, S3Config

ALLOW_HTTP = "AWS_ALLOW_HTTP"

_RENEW = "get new ones, such as with aws sso login"
_NO_SUCH_KEY = Remedy(
    ConfigError, "check AWS_ACCESS_KEY_ID or the profile's, and which store it is for"
)
_REMEDIES = {
    "InvalidAccessKeyId": _NO_SUCH_KEY,
    "XAdminUserNotFound": _NO_SUCH_KEY,  # versitygw
    "SignatureDoesNotMatch": Remedy(ConfigError, "check AWS_SECRET_ACCESS_KEY or the profile's"),
    "InvalidToken": Remedy(ConfigError, "check AWS_SESSION_TOKEN; keys that last have none"),
    "ExpiredToken": Remedy(CredentialsError, f"the credentials are too old; {_RENEW}"),
    "ExpiredTokenException": Remedy(CredentialsError, f"the credentials are too old; {_RENEW}"),
    "RequestTimeTooSkewed": Remedy(UnavailableError, "set this machine's clock (timedatectl)"),
    "AuthorizationHeaderMalformed": Remedy(ConfigError, "set AWS_REGION to the bucket's region"),
    "PermanentRedirect": Remedy(ConfigError, "set AWS_REGION to the bucket's region"),
    "IllegalLocationConstraintException": Remedy(
        ConfigError, "set AWS_REGION to the bucket's region"
    ),
}


# Any of these is a choice that comes before a profile.
_CHOICES = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
_POD_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
_ENDPOINTS = ("s3.endpoint_url", "endpoint_url")
_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_ROLE = {
    "web_identity_token_file": "web_identity_token_file",
    "role_arn": "role_arn",
    "role_session_name": "role_session_name",
}


class S3Storage(ObjectStorage):
    """Objects of a bucket whose names start with a prefix; settings come from the environment.

    Credentials are looked for where AWS's own tools look: AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, web identity (IRSA), the profile AWS_PROFILE of the shared files,
    container credentials (EKS Pod Identity), the instance's metadata. AWS_ENDPOINT_URL_S3 or
    AWS_ENDPOINT_URL leads to another server, with path-style addresses unless
    AWS_VIRTUAL_HOSTED_STYLE_REQUEST is true.
    """

    def __init__(self, bucket: str, prefix: str = "", *, deadline: float = 120.0) -> None:
        uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, and the
        # capitals and underscores of other servers.
        if not re.fullmatch(r"[A-Za-z0-9](?!.*\.\.)[A-Za-z0-9._-]{1,61}[A-Za-z0-9]", bucket):
            raise ConfigError(
                f"storage {uri!r}: {bucket!r} is no bucket name "
                "(3 to 63 of a-z, 0-9, '-' and single '.'); give s3://BUCKET[/PREFIX]"
            )
        super().__init__(uri, bucket, prefix, _service(bucket), deadline)


def _service(bucket: str) -> Service:
    check_variables("AWS_")
    profile = aws_profile.read(os.environ)
    region = (
        os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or profile.get("region")
        or "us-east-1"
    )
    if not re.fullmatch(r"[A-Za-z0-9._-]+", region):  # other servers have any words for one
        raise ConfigError(f"AWS_REGION={region!r}: not a region; give one such as eu-west-1")
    endpoint = _endpoint(bucket, profile, region)
    virtual = (
        os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in ("1", "true")
        or profile.get("s3.addressing_style") == "virtual"
    )
    if virtual:
        _check_takes_bucket(endpoint)
        endpoint = endpoint.replace("://", f"://{bucket}.", 1)
    where: S3Config = {
        "region": region,
        "virtual_hosted_style_request": virtual,
        "endpoint": endpoint,
        "aws_endpoint_url_s3": endpoint,
        "conditional_put": "etag",  # whatever the environment says
    }
    process = None
    if not any(os.environ.get(name) for name in _CHOICES):
        keys = _keys(profile)
        where |= keys
        process = None if "access_key_id" in keys else aws_profile.process(profile)
        if process:
            process()  # so that its own words are heard, and none of the library's
        elif not keys:
            _check_pod_token()

    def connect(options: "ClientConfig") -> "ObjectStore":
        return S3Store(
            bucket,
            disable_bulk_delete=True,  # one object at a time, and not all servers have it
            client_options=options,
            retry_config={"max_retries": 0},  # retries.py has them
            credential_provider=process,
            config=where,
        )

    return Service(
        bucket="bucket",
        connect=connect,
        endpoint=endpoint,
        authority=read_authority(
            {
                "AWS_CA_BUNDLE": os.environ.get("AWS_CA_BUNDLE"),
                "ca_bundle": profile.get("ca_bundle"),
                "SSL_CERT_FILE": os.environ.get("SSL_CERT_FILE"),
            }
        ),
        remedies=_REMEDIES,
        denied=(
            f"grant this identity s3:ListBucket on {bucket} and s3:GetObject, s3:PutObject, "
            "s3:DeleteObject on its objects, or set AWS_REQUEST_PAYER=requester if the bucket's "
            "requester pays"
        ),
        credentials=(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE on a laptop; give "
            "a pod's service account a role (IRSA or EKS Pod Identity)"
        ),
        certificate=f"put the file of {urlsplit(endpoint).hostname}'s authority in AWS_CA_BUNDLE",
        missing="NoSuchBucket",
    )


def _check_takes_bucket(endpoint: str) -> None:
    """Refuse an address before whose host the bucket's name cannot stand."""
    host = urlsplit(endpoint).hostname or ""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        raise ConfigError(
            f"{endpoint}: is an IP address, before which the bucket's name cannot stand, as "
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST or the profile's addressing_style asks; give a host "
            "name, or remove that setting"
        )


def _check_pod_token() -> None:
    """Refuse a token of EKS Pod Identity that the library would take for a defect of its own."""
    if path := os.environ.get(_POD_FILE):
        with contextlib.suppress(OSError):  # it is not there yet: the library says so
            check_sent(f"{path} ({_POD_FILE})", Path(path).read_text("utf-8", "replace"))


def _endpoint(bucket: str, profile: Mapping[str, str], region: str) -> str:
    """Return where requests go: to another server if one is named, else to the region."""
    given = {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}
    given |= {f"{name} of the profile": profile.get(name) for name in _ENDPOINTS}
    for name, endpoint in given.items():
        if endpoint:
            endpoints.check(endpoint, name, ALLOW_HTTP)
            endpoint = endpoint.rstrip("/")
            if urlsplit(endpoint).path.endswith(f"/{bucket}"):  # as some services show it
                raise ConfigError(
                    f"{name}={endpoint!r}: ends with the bucket's name, which requests add; "
                    f"give {endpoint.removesuffix(f'/{bucket}')}"
                )
            return endpoint
    return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def _keys(profile: Mapping[str, str]) -> "S3Config":
    """Return a profile's own credentials, or the role that its file of a token can take."""
    names = _KEYS if "aws_access_key_id" in profile else _ROLE
    found: S3Config = {ours: profile[name] for name, ours in names.items() if name in profile}  # type: ignore[assignment]
    for name in _KEYS.keys() & profile.keys():
        check_sent(f"{name} of profile {profile['name']!r}", profile[name])
    return found if len(found) > 1 else {}
