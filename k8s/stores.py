"""The stores of a run: which service a folder is in, and the variables that lead to it. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from trainer.storage import endpoints

_REST = r"(/[^\x00-\x1f?#]+)?"
_TRUE = ("1", "true", "yes", "on")
AZURE_ACCOUNT = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")


@dataclass(frozen=True)
class Service:
    """A kind of store.

    Attributes:
        name: what people call it.
        example: of a folder's URI.
        pattern: of a folder's URI.
        endpoints: variables with the address of the server, the first one as ours to set.
        settings: variables that say where a bucket is and how to ask for it; none is a secret.
        allow_http: the variable by which plain http is asked for; None where it needs no asking.
    """

    name: str
    example: str
    pattern: str
    endpoints: tuple[str, ...]
    settings: tuple[str, ...] = ()
    allow_http: str | None = None


GCS = Service(
    name="Cloud Storage",
    example="gs://BUCKET/FOLDER",
    pattern=rf"gs://[a-z0-9][a-z0-9._-]{{1,220}}[a-z0-9]{_REST}",
    endpoints=("STORAGE_EMULATOR_HOST",),
    settings=("GOOGLE_CLOUD_QUOTA_PROJECT",),
)
S3 = Service(
    name="S3",
    example="s3://BUCKET/FOLDER",
    pattern=rf"s3://[A-Za-z0-9][A-Za-z0-9._-]{{1,61}}[A-Za-z0-9]{_REST}",
    endpoints=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    settings=(
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
        "AWS_REQUEST_PAYER",
        "AWS_ALLOW_HTTP",
    ),
    allow_http="AWS_ALLOW_HTTP",
)
_CONTAINER = r"[a-z0-9](-?[a-z0-9]){2,62}"
# Of Azure's clouds alone: whoever names another host would be sent this machine's token.
_HOST = r"\.(blob|dfs)\.core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)"
AZURE = Service(
    name="Azure Blob Storage",
    example="az://CONTAINER/FOLDER",
    pattern=(
        rf"(az|abfss?)://{_CONTAINER}(@[a-z0-9]{{3,24}}{_HOST})?{_REST}"
        rf"|https://[a-z0-9]{{3,24}}{_HOST}/{_CONTAINER}{_REST}"
    ),
    endpoints=("AZURE_STORAGE_ENDPOINT",),
    settings=(*AZURE_ACCOUNT, "AZURE_ALLOW_HTTP"),
    allow_http="AZURE_ALLOW_HTTP",
)
SERVICES = (GCS, S3, AZURE)
EXAMPLES = ", ".join(each.example for each in SERVICES)
MOUNTED = "a path below the mount of a volume"


def of(uri: str) -> Service | None:
    """Return the service that a folder is in, None for what is no folder of a store."""
    return next((each for each in SERVICES if re.fullmatch(each.pattern, uri)), None)


def why_none(uri: str) -> str:
    """Return why a URI is no folder of a store, as a rule that it breaks."""
    scheme, separator, rest = uri.partition("://")
    ours = [each for each in SERVICES if each.example.startswith(f"{scheme}://")]
    if ours and not rest.strip("/"):
        bucket = ours[0].example.split("/")[2].lower()
        return f"names no {bucket}; write {ours[0].example}"
    if separator and not ours and scheme not in ("abfs", "abfss", "https"):
        return f"{scheme}:// is no store that Trainyard knows; give {EXAMPLES} or {MOUNTED}"
    return f"must be {ours[0].example if ours else f'{EXAMPLES} or {MOUNTED}'}"


def endpoint_variables(endpoint: str | None, uris: Iterable[str]) -> dict[str, str]:
    """Return the variables that lead to a server, of each service that a folder is in."""
    services = {service for uri in uris if (service := of(uri))}
    return {each.endpoints[0]: endpoint for each in services} if endpoint else {}


def fault(variables: Mapping[str, str], uris: Iterable[str], *, secrets: bool) -> str | None:
    """Return what is wrong with the pods' variables for these folders, None if nothing is.

    ``secrets``: whether the pods get more variables from Secrets.
    """
    for uri in uris:
        service = of(uri)
        if service is None or service.allow_http is None:
            continue
        asked = variables.get(service.allow_http, "").lower() in _TRUE
        for address in filter(None, map(variables.get, service.endpoints)):
            if not endpoints.is_url(address):
                return "an endpoint under environment is no URL; give https://HOST[:PORT]"
            if address.startswith("http:") and not asked:
                host = urlsplit(address).hostname
                return (
                    f"http:// to {host} shows the data to whoever is on the way; give https://, or "
                    f"{service.allow_http}: true under environment if the network is yours"
                )
        account = "@" in uri or uri.startswith("https:") or any(map(variables.get, AZURE_ACCOUNT))
        if service is AZURE and not (account or secrets):
            return (
                f"{uri!r} names no account; give {AZURE_ACCOUNT[0]} under environment, or "
                "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER"
            )
    return None


def from_here(
    uri: str, variables: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables by which this machine reaches a run's folder.

    Args:
        uri: of the folder.
        variables: of the run's pods.
        environment: of this machine, whose endpoint wins: a store in the cluster may have another
            address from here. All else describes the bucket, and is the run's to say.
    """
    service = of(uri)
    if service is None:
        return {}
    names = service.settings
    if not any(environment.get(name) for name in service.endpoints):
        names += service.endpoints
    return {name: variables[name] for name in names if variables.get(name)}
