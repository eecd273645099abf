"""Objects in a container of Azure Blob Storage."""

import os
import re
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from obstore.store import AzureStore

from trainer.errors import ConfigError, CredentialsError
from trainer.storage import endpoints
from trainer.storage.s3_and_azure import (
    ObjectStorage,
    Remedy,
    Service,
    check_variables,
    read_authority,
)

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, ObjectStore

ALLOW_HTTP = "AZURE_ALLOW_HTTP"

_FORMS = (
    "az://CONTAINER[/PREFIX], abfss://CONTAINER@ACCOUNT.dfs.core.windows.net[/PREFIX] "
    "or https://ACCOUNT.blob.core.windows.net/CONTAINER[/PREFIX]"
)
# Of Azure's clouds alone: whoever has a user open another address would be sent a token.
_HOST = re.compile(
    r"[a-z0-9]{3,24}(-secondary)?(\.z\d+)?\.(blob|dfs)"
    r"\.(core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)|storage\.azure\.net)"
)
# Any of these is a choice; without one, the Azure CLI is asked if it is installed.
_CHOICES = (
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
    *("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"),
    *("AZURE_STORAGE_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"),
    *("AZURE_CREDENTIAL_TYPE", "AZURE_IDENTITY_ENDPOINT", "AZURE_MSI_ENDPOINT"),
    "AZURE_SKIP_SIGNATURE",
)
_KEPT = "it is kept for a time by an immutability policy or a hold; choose a container without one"
_REMEDIES = {
    "AuthenticationFailed": Remedy(
        ConfigError,
        "check AZURE_STORAGE_KEY or the dates of AZURE_STORAGE_SAS_TOKEN, which account "
        "they are for, and this machine's clock",
    ),
    "InvalidAuthenticationInfo": Remedy(
        CredentialsError, "the credentials are too old or another tenant's; get new ones (az login)"
    ),
    "KeyBasedAuthenticationNotPermitted": Remedy(
        ConfigError, "the account takes no keys; use workload identity, or az login on a laptop"
    ),
    "AuthorizationFailure": Remedy(
        ConfigError,
        "check AZURE_STORAGE_KEY or the dates of AZURE_STORAGE_SAS_TOKEN, and whether the "
        "account's network rules let this machine in",
    ),
    "BlobImmutableDueToPolicy": Remedy(ConfigError, _KEPT),
}


class AzureStorage(ObjectStorage):
    """Objects of a container whose names start with a prefix; settings come from the environment.

    The account is in the URI or in AZURE_STORAGE_ACCOUNT. Credentials are its key
    (AZURE_STORAGE_KEY), a SAS (AZURE_STORAGE_SAS_TOKEN), both in
    AZURE_STORAGE_CONNECTION_STRING, a service principal or workload identity (AZURE_CLIENT_ID,
    AZURE_TENANT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE), the login of the
    Azure CLI, or the machine's managed identity. AZURE_STORAGE_ENDPOINT leads to another server.
    """

    def __init__(self, uri: str, *, deadline: float = 120.0) -> None:
        check_variables("AZURE_")
        place = _place(uri)
        service = _service(place, os.environ)
        super().__init__(uri.rstrip("/"), place.container, place.prefix, service, deadline)


class _Place(NamedTuple):
    container: str
    prefix: str
    host: str  # of the account, empty where the URI does not say


def _place(uri: str) -> _Place:
    scheme, _, rest = uri.rstrip("/").partition("://")
    if scheme.lower() == "https" and "?" in rest:
        raise ConfigError(
            f"storage {uri.partition('?')[0]!r}: a URI must not hold a signature, which logs would "
            "show; give it in AZURE_STORAGE_SAS_TOKEN"
        )
    head, _, below = rest.partition("/")
    if scheme.lower() == "https":
        host = head
        container, _, prefix = below.partition("/")
    else:
        (container, _, host), prefix = head.partition("@"), below
    # https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9])+|\$web|\$root", container) or len(container) > 63:
        raise ConfigError(
            f"storage {uri!r}: {container!r} is no container name "
            f"(3 to 63 of a-z, 0-9 and single '-'); give {_FORMS}"
        )
    if host and not _HOST.fullmatch(host):
        raise ConfigError(f"storage {uri!r}: {host!r} is no account's address; give {_FORMS}")
    return _Place(container, prefix, host.replace(".dfs.", ".blob.", 1))


def _service(place: _Place, env: Mapping[str, str]) -> Service:
    string = _parts(env.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    account = (
        place.host.partition(".")[0]
        or env.get("AZURE_STORAGE_ACCOUNT")
        or env.get("AZURE_STORAGE_ACCOUNT_NAME")
        or string.get("accountname")
    )
    if not account:
        raise ConfigError(
            f"storage az://{place.container}: no account; set AZURE_STORAGE_ACCOUNT, or give "
            f"abfss://{place.container}@ACCOUNT.dfs.core.windows.net[/PREFIX]"
        )
    given = env.get("AZURE_STORAGE_ENDPOINT") or string.get("blobendpoint", "")
    suffix = string.get("endpointsuffix", "core.windows.net")
    endpoint = given.rstrip("/") or f"https://{place.host or f'{account}.blob.{suffix}'}"
    endpoints.check(endpoint, "AZURE_STORAGE_ENDPOINT", ALLOW_HTTP)
    where: AzureConfig = {"account_name": account, "endpoint": endpoint}
    if key := env.get("AZURE_STORAGE_KEY") or string.get("accountkey"):
        where["account_key"] = key
    if signature := string.get("sharedaccesssignature"):
        where["sas_key"] = signature
    if shutil.which("az") and not any(env.get(name) for name in _CHOICES):
        where["use_azure_cli"] = True

    def connect(options: "ClientConfig") -> "ObjectStore":
        return AzureStore(
            place.container,
            config=where,
            client_options=options,
            retry_config={"max_retries": 0},  # retries.py has them
        )

    return Service(
        bucket="container",
        connect=connect,
        endpoint=endpoint,
        authority=read_authority({"SSL_CERT_FILE": env.get("SSL_CERT_FILE")}),
        remedies=_REMEDIES,
        denied=(
            "give this identity the role Storage Blob Data Contributor on the container, or the "
            "SAS the rights to read, add, create, write, delete and list (racwdl)"
        ),
        credentials=(
            "run 'az login' on a laptop, bind a pod's service account by workload identity, or "
            "set AZURE_STORAGE_KEY"
        ),
        certificate=f"put the file of {urlsplit(endpoint).hostname}'s authority in SSL_CERT_FILE",
        missing="ContainerNotFound",
    )


def _parts(connection_string: str) -> dict[str, str]:
    """Return the parts of ``NAME=VALUE;...``, by name in small letters."""
    pairs = (part.partition("=") for part in connection_string.split(";"))
    parts = {name.strip().lower(): value.strip() for name, _, value in pairs if value}
    if connection_string and not parts.keys() & {"accountname", "blobendpoint"}:
        raise ConfigError(
            "AZURE_STORAGE_CONNECTION_STRING: has neither AccountName= nor BlobEndpoint=; copy it "
            "whole, in quotes, from the account's access keys"
        )
    return parts
