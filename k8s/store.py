"""A run's folder in the bucket, seen from where the user types."""

import os
from typing import Any

import yaml

from k8s.client import Cluster
from k8s.spec import RunSpec
from trainer.errors import ConfigError
from trainer.storage import Storage, open_storage

DEADLINE = 10.0  # seconds for a call; a person waits
ENDPOINT = "STORAGE_EMULATOR_HOST"  # the only way the client library takes it from


def use(endpoint: str | None) -> None:
    """Take this stand-in for Cloud Storage, wherever run files say it is."""
    if endpoint:
        os.environ[ENDPOINT] = endpoint


def open_folder(uri: str, endpoint: str | None) -> Storage:
    """Return a folder.

    Args:
        uri: of it.
        endpoint: of a stand-in for Cloud Storage, as pods see it; that of the environment wins,
            as a store in the cluster may be reached by another name from here.
    """
    if endpoint:
        os.environ.setdefault(ENDPOINT, endpoint)
    return open_storage(uri, deadline=DEADLINE)


def of_spec(spec: RunSpec) -> Storage:
    """Return the folder of a run file."""
    return open_folder(spec.run_uri, spec.storage_endpoint)


def of_job(cluster: Cluster, job: dict[str, Any]) -> Storage:
    """Return the folder of a run in the cluster.

    Raises:
        ConfigError: its ConfigMap is gone or is no run's.
    """
    name = job["metadata"]["name"]
    config = cluster.get("ConfigMap", name)
    try:
        uri = yaml.safe_load((config or {})["data"]["config.yaml"])["run"]
    except (KeyError, TypeError, ValueError, yaml.YAMLError):
        uri = None
    if not isinstance(uri, str) or "{" in uri:
        raise ConfigError(
            f"{name}: its ConfigMap does not tell the run's folder; give its run file"
        )
    container = job["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value") for each in container.get("env") or []}
    return open_folder(uri, variables.get(ENDPOINT))
