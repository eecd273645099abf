"""A run's folder, in a bucket or on a claim, seen from where the user types."""

import contextlib
import os
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from k8s import manifest, stores
from k8s.client.cluster import Cluster
from k8s.diagnosis import evidence
from k8s.run import reader_pod
from k8s.run.claim_folder import ClaimFolder
from k8s.run_file import RunSpec
from trainer import presets
from trainer.common import yaml_text
from trainer.config import TrainConfig
from trainer.errors import ConfigError, UserError
from trainer.runs import run_folder
from trainer.storage import endpoints
from trainer.storage.base import Storage, open_storage

DEADLINE = 10.0  # seconds for a call, because a person waits
_ENVIRONMENT = threading.Lock()  # held while it is another run's; `list` opens many folders at once


def use(endpoint: str | None) -> None:
    """Reach stores at this address, whatever run files say.

    Raises:
        ConfigError: it is no URL.
    """
    if endpoint is not None:
        if not endpoints.is_url(endpoint):
            raise ConfigError(f"--storage-endpoint: {endpoint!r}: must be http://HOST:PORT")
        os.environ |= {service.endpoints[0]: endpoint for service in stores.SERVICES}


def open_folder(uri: str, variables: Mapping[str, str]) -> Storage:
    """Return a folder, which the run's pods reach by these variables."""
    with _ENVIRONMENT:
        given = stores.from_here(uri, variables, os.environ)
        before = {name: os.environ.get(name) for name in given}
        os.environ |= given
        try:
            return open_storage(uri, deadline=DEADLINE)
        finally:  # the next run's store may be another one
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def of_spec(spec: RunSpec) -> Storage:
    """Return the folder of a run file, which must be in a bucket."""
    return open_folder(spec.run_uri, spec.variables)


def on_claim(cluster: Cluster, spec: RunSpec) -> Storage:
    """Return the folder of a run file, which must be on a claim."""
    template = manifest.objects(spec)[-1]["spec"]["template"]
    return _on_claim(cluster, spec.name, template, spec.run_uri)


def newest_step(cluster: Cluster, job: dict[str, Any]) -> tuple[int, int]:
    """Return the step of a run's newest checkpoint, and its number of steps where that is set.

    0 stands for what is not there, or not seen from here.
    """
    from trainer.runs import checkpoint  # imports NumPy

    with contextlib.suppress(UserError):
        folder, config = of_job(cluster, job)
        if not isinstance(folder, ClaimFolder):  # which takes a pod
            return next(iter(checkpoint.steps(folder)), 0), config.steps
    return 0, 0


def _on_claim(cluster: Cluster, name: str, template: dict[str, Any], path: str) -> Storage:
    return ClaimFolder(path, partial(reader_pod.ask, cluster, name, template, path))


def of_job(cluster: Cluster, job: dict[str, Any]) -> tuple[Storage, TrainConfig]:
    """Return the folder of a run in the cluster, and the run's settings.

    Raises:
        ConfigError: its ConfigMap is gone or is no run's.
    """
    name = job["metadata"]["name"]
    there = cluster.get("ConfigMap", name)
    try:
        values = yaml_text.parse((there or {})["data"]["config.yaml"])
        config = presets.configure(values, {"run": values["run"]})
    except (KeyError, TypeError, ValueError, ConfigError):
        config = None
    uri = run_folder.uri(config) if config else ""
    service = stores.of(uri)
    if config is None or not (service or uri.startswith("/")) or "{" in uri:
        raise ConfigError(
            f"{name}: its ConfigMap does not name the run's folder; give its run file"
        )
    template = job["spec"]["template"]
    if not service:
        return _on_claim(cluster, name, template, uri), config
    its = evidence.container(template["spec"])
    variables = {each["name"]: each.get("value") or "" for each in its.get("env") or []}
    given = stores.from_here(uri, variables, os.environ)
    if service is stores.AZURE and (endpoint := given.get(service.endpoints[0])):
        # A request to Azure carries a token that opens more than this folder, and whoever may
        # create Jobs chose where it would go.
        raise ConfigError(
            f"{name}: its store is at {endpoint}; if your credentials may go there, give "
            f"--storage-endpoint {endpoint} or its run file"
        )
    return open_folder(uri, variables), config
