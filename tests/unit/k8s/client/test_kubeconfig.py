"""Which cluster, user and namespace kubeconfigs name."""

import os
from pathlib import Path

import pytest
import yaml

from k8s.client import kubeconfig
from k8s.client.cluster import Cluster
from tests.support.apiserver import ApiServer
from tests.support.clients import raised
from trainer.errors import ConfigError

# Kubeconfigs


def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "nothing")
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBECONFIG", path)
    assert f"kubeconfig {path}: not there" in str(raised(ConfigError, Cluster))
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "kubeconfig ~/.kube/config: not there" in str(raised(ConfigError, Cluster))
    error = raised(ConfigError, lambda: Cluster(kubeconfig=path))
    assert str(error).startswith(f"kubeconfig {path}: No such file or directory; ")


def test_an_unknown_context_names_the_nearest(api: ApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path / "config", context="production")
    error = raised(ConfigError, lambda: Cluster(kubeconfig=path, context="prodution"))
    assert str(error) == (
        f"kubeconfig {path}: no context 'prodution'; did you mean production? "
        "(there are production)"
    )


def test_no_current_context(api: ApiServer, tmp_path: Path) -> None:
    path = Path(api.kubeconfig(tmp_path / "config"))
    content = yaml.safe_load(path.read_text())
    del content["current-context"]
    path.write_text(yaml.safe_dump(content))
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(path)))
    assert "no current context; give --context with one of test" in str(error)
    assert Cluster(kubeconfig=str(path), context="test").version()


@pytest.mark.parametrize(
    "content", ["{", "a\n", "contexts: 3", "contexts: [3]", "contexts: [{name: a}]", "\x00"]
)
def test_what_is_no_kubeconfig(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(path)))
    assert str(error).startswith(f"kubeconfig {path}: not a kubeconfig; ")


@pytest.mark.parametrize("part", ["clusters", "users"])
def test_a_context_that_leads_nowhere(api: ApiServer, tmp_path: Path, part: str) -> None:
    path = Path(api.kubeconfig(tmp_path / "config"))
    content = yaml.safe_load(path.read_text())
    content[part] = [{"name": {"clusters": "x", "users": "u"}[part], "user": 3}]
    path.write_text(yaml.safe_dump(content))
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(path)))
    assert str(error).startswith(f"kubeconfig {path}, context test: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_kubeconfig(api: ApiServer, tmp_path: Path) -> None:
    path = Path(api.kubeconfig(tmp_path / "config"))
    path.chmod(0)
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(path)))
    assert "Permission denied" in str(error)


def test_a_folder_is_no_kubeconfig(tmp_path: Path) -> None:
    error = raised(ConfigError, lambda: Cluster(kubeconfig=str(tmp_path)))
    assert "Is a directory" in str(error)


def test_the_namespace_is_the_given_one_or_the_contexts(api: ApiServer, tmp_path: Path) -> None:
    path = api.kubeconfig(tmp_path / "config", namespace="theirs")
    assert Cluster(kubeconfig=path).namespace == "theirs"
    assert Cluster(kubeconfig=path, namespace="mine").namespace == "mine"
    assert Cluster(kubeconfig=api.kubeconfig(tmp_path / "config")).namespace == "default"


def test_of_several_kubeconfigs_the_first_names_the_context(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        api.kubeconfig(tmp_path / "a", context="first", namespace="one"),
        str(tmp_path / "missing"),
        api.kubeconfig(tmp_path / "b", context="second", namespace="two"),
    ]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(paths))
    cluster = Cluster()
    assert (cluster.context, cluster.namespace) == ("first", "one")
    assert Cluster(context="second").namespace == "two"
    assert cluster.version()
