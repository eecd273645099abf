"""A run's folder in the bucket, seen from where the user types."""

import os
from typing import Any

import yaml

from k8s.client import Cluster
from k8s.spec import RunSpec
from trainer.errors import ConfigError
from trainer.storage import Storage, open_storage

DEADLINE = 20.0  # seconds for a call; a person waits
ENDPOINT = "STORAGE_EMULATOR_HOST"


def open_folder(uri: str, endpoint: str | None) -> Storage:
    """Return the folder, at a stand-in for Cloud Storage where ``endpoint`` names one."""
    if endpoint:
        os.environ[ENDPOINT] = endpoint  # the only way the client library takes it from
    return open_storage(uri, deadline=DEADLINE)


def of_spec(spec: RunSpec, endpoint: str | None = None) -> Storage:
    """Return the folder of a run file; ``endpoint`` wins over that of the file."""
    return open_folder(spec.run_uri, endpoint or spec.storage_endpoint)


def of_job(cluster: Cluster, job: dict[str, Any], endpoint: str | None = None) -> Storage:
    """Return the folder of a run in the cluster.

    Raises:
        ConfigError: its ConfigMap is gone or is no run's.
    """
    name = job["metadata"]["name"]
    config = cluster.get("ConfigMap", name)
    try:
        assert config is not None
        uri = yaml.safe_load(config["data"]["config.yaml"])["run"]
        if "{" in uri:
            raise ValueError
    except (AssertionError, KeyError, TypeError, ValueError, yaml.YAMLError):
        raise ConfigError(
            f"{name}: its ConfigMap does not tell the run's folder; give its run file"
        ) from None
    container = job["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value") for each in container.get("env") or []}
    return open_folder(uri, endpoint or variables.get(ENDPOINT))
