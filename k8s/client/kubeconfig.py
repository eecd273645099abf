"""Which cluster to use, and the credentials for it, from a kubeconfig or from inside a pod."""

import logging
import os
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import yaml

from trainer.common.text import nearest
from trainer.errors import ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def choose(context: str | None, kubeconfig: str | None) -> tuple[str | None, str, str]:
    """Return the kubeconfig's path (None inside of a pod), the context and its namespace.

    Where none is given, see ``Cluster``.

    Raises:
        ConfigError: there is no kubeconfig, it cannot be read, or it has no such context.
    """
    path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = [Path(part).expanduser() for part in path.split(os.pathsep) if part]
    contexts, current = _contexts([file for file in files if kubeconfig or file.exists()])
    if not contexts and not kubeconfig and (SERVICE_ACCOUNT / "token").exists():
        return None, "in-cluster", (SERVICE_ACCOUNT / "namespace").read_text().strip()
    if not contexts:
        raise ConfigError(
            f"kubeconfig {path}: not there, or without contexts; log in to a cluster, or name "
            "another file by KUBECONFIG"
        )
    chosen = context or current
    if not chosen:
        raise ConfigError(
            f"kubeconfig {path}: no current context; give --context with one of "
            f"{', '.join(contexts)}"
        )
    if chosen not in contexts:
        raise ConfigError(
            f"kubeconfig {path}: no context {chosen!r}{nearest(chosen, contexts)} "
            f"(there are {', '.join(contexts)})"
        )
    return path, chosen, contexts[chosen] or "default"


def _contexts(files: list[Path]) -> tuple[dict[str, str], str]:
    """Return the namespace of each context, and the name of the current one.

    The first file that names one wins, as in kubectl; the package lets the last one win.
    """
    contexts: dict[str, str] = {}
    current = ""
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            current = current or content.get("current-context") or ""
            for item in content.get("contexts") or []:
                contexts.setdefault(item["name"], item["context"].get("namespace") or "")
        except OSError as error:
            raise ConfigError(
                f"kubeconfig {file}: {error.strerror}; give a readable one by KUBECONFIG"
            ) from None
        except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"kubeconfig {file}: not a kubeconfig; restore it, or give another by KUBECONFIG"
            ) from None
    return contexts, current


def connect(path: str | None, context: str) -> Any:
    """Return the package's client, with the credentials as they are now.

    Raises:
        ConfigError: the credentials cannot be loaded.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    errors = BufferingHandler(1000)  # the package logs them of a credential plugin that fails
    errors.setLevel(logging.ERROR)
    logging.getLogger().addHandler(errors)
    try:
        if path is None:
            config.load_incluster_config(configuration)
        else:
            config.load_kube_config(path, context, configuration)
    except Exception as error:  # the package checks little of what it reads
        raise ConfigError(
            f"kubeconfig {path or 'of this pod'}, context {context}: "
            f"{' '.join(str(error).split())}; fix it, or log in to the cluster again"
        ) from None
    finally:
        logging.getLogger().removeHandler(errors)
    if errors.buffer and not (configuration.api_key or configuration.cert_file):
        said = [" ".join(record.getMessage().split()) for record in errors.buffer]
        # On a terminal the plugin prints its own words, and the package fails for lack of them.
        words = "; ".join(text for text in said if "NoneType" not in text) or "see above"
        raise ConfigError(
            f"context {context}: its credential plugin gave no credentials: "
            f"{words}; install it or log in again"
        )
    configuration.retries = False  # tries and their limit are counted here
    configuration.refresh_api_key_hook = None  # it would run a plugin before each request
    configuration.connection_pool_maxsize = 100  # a log follower a rank
    return client.ApiClient(configuration)
