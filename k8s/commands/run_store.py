"""A run's folder in the bucket, seen from where the user types."""

import os
from typing import Any
from urllib.parse import urlsplit

import yaml

from k8s.client.cluster import Cluster
from k8s.run_file import RunSpec
from trainer import presets
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.runs import run_folder
from trainer.storage.base import Storage, open_storage

DEADLINE = 10.0  # seconds for a call, because a person waits
ENDPOINT = "STORAGE_EMULATOR_HOST"  # the client library reads it from nowhere else


def use(endpoint: str | None) -> None:
    """Use this stand-in for Cloud Storage, whatever run files say.

    Raises:
        ConfigError: it is no URL.
    """
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--storage-endpoint: {endpoint!r}: must be http://HOST:PORT")
        os.environ[ENDPOINT] = endpoint


def open_folder(uri: str, endpoint: str | None) -> Storage:
    """Return a folder.

    Args:
        uri: of the folder.
        endpoint: of a stand-in for Cloud Storage, as pods reach it. The environment's wins,
            because a store in the cluster may have another address from here.
    """
    if not endpoint or ENDPOINT in os.environ:
        return open_storage(uri, deadline=DEADLINE)
    os.environ[ENDPOINT] = endpoint
    try:
        return open_storage(uri, deadline=DEADLINE)
    finally:
        del os.environ[ENDPOINT]  # the next run's store may be another one


def of_spec(spec: RunSpec) -> Storage:
    """Return the folder of a run file."""
    return open_folder(spec.run_uri, spec.storage_endpoint)


def of_job(cluster: Cluster, job: dict[str, Any]) -> tuple[Storage, TrainConfig]:
    """Return the folder of a run in the cluster, and the run's settings.

    Raises:
        ConfigError: its ConfigMap is gone or is no run's.
    """
    name = job["metadata"]["name"]
    there = cluster.get("ConfigMap", name)
    try:
        values = yaml.safe_load((there or {})["data"]["config.yaml"])
        config = presets.configure(values, {"run": values["run"]})
    except (KeyError, TypeError, ValueError, RecursionError, yaml.YAMLError, ConfigError):
        config = None
    uri = run_folder.uri(config) if config else ""
    if config is None or not uri.startswith("gs://") or "{" in uri:  # pods' paths are not ours
        raise ConfigError(
            f"{name}: its ConfigMap does not name the run's folder in a bucket; give its run file"
        )
    container = job["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value") for each in container.get("env") or []}
    return open_folder(uri, variables.get(ENDPOINT)), config
