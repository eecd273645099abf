"""A user's code on its way into a cluster: from beside the run file into a ConfigMap or the run."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import manifest, run_file
from k8s.client.cluster import Cluster
from k8s.commands import submit
from k8s.run_file import RunSpec
from tests.support.apiserver import ApiServer
from tests.support.controller import Controller
from tests.support.runfiles import PLAIN
from trainer.errors import ConfigError
from trainer.runs import user_code

MODEL = {"train": {"model": "mymodels:net"}}


def write(folder: Path, **changes: Any) -> str:
    (folder / "run.yaml").write_text(yaml.safe_dump({**PLAIN, **MODEL, **changes}))
    return str(folder / "run.yaml")


def spec(folder: Path, **changes: Any) -> RunSpec:
    return run_file.read(write(folder, **changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mymodels.py").write_text("def net(shape, classes): ...\n")
    (tmp_path / "mine" / "helpers.py").write_text("WIDTH = 32\n")
    return tmp_path


def carried(item: RunSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the names of the files that a pod of this run imports from."""
    config, _, _, job = manifest.objects(item)
    settings = yaml.safe_load(config["data"]["config.yaml"])
    assert settings["code"] == item.code
    container = job["spec"]["template"]["spec"]["containers"][0]
    [path] = [each["value"] for each in container["env"] if each["name"] == user_code.ARCHIVE]
    mounted = next(m for m in container["volumeMounts"] if m["name"] == "config")
    assert str(Path(path).parent) == mounted["mountPath"]
    file = tmp_path / Path(path).name
    file.write_bytes(base64.b64decode(config["binaryData"][file.name]))
    monkeypatch.setenv(user_code.ARCHIVE, str(file))
    archive = user_code.given(item.config)
    assert archive is not None
    return user_code.names(archive)


def test_the_module_beside_the_run_file_travels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert carried(spec(folder / "mine"), monkeypatch, folder) == ["mymodels.py"]


def test_code_is_relative_to_the_run_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    item = spec(folder, code="mine")
    assert carried(item, monkeypatch, folder) == ["helpers.py", "mymodels.py"]
    assert item.code == spec(folder, code="mine").code
    assert item.code != spec(folder, code="mine/mymodels.py").code


def test_an_installed_package_and_a_preset_have_no_code(folder: Path) -> None:
    for changes in ({"train": {"model": "installed:net"}}, {"train": {"preset": "cnn"}}):
        config, _, _, job = manifest.objects(spec(folder, **changes))
        assert "binaryData" not in config
        assert "code" not in yaml.safe_load(config["data"]["config.yaml"])
        assert user_code.ARCHIVE not in str(job)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code": "nothing"}, "nothing: no such file or folder; give the path of your code"),
        ({"code": ".", "train": {}}, "train: code: '.': is for a model of your own"),
        ({"train": {"model": "mymodels:net", "code": "."}}, "train.code: does not belong under"),
    ],
)
def test_mistakes_are_one_line(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec(folder, **changes)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(folder / "run.yaml"))


def test_code_too_large_for_a_configmap_goes_into_the_run(folder: Path) -> None:
    (folder / "mine" / "weights.bin").write_bytes(os.urandom(manifest.MOST_CODE + 1))
    item = spec(folder, code="mine")
    config, _, _, job = manifest.objects(item)
    assert "binaryData" not in config
    assert yaml.safe_load(config["data"]["config.yaml"])["code"] == item.code
    assert user_code.ARCHIVE not in str(job)

    mounted = {"volumes": [{"claim": "team", "mount": "/runs"}], "run": "/runs/{name}"}
    with pytest.raises(ConfigError, match="put the large files on the volume, or the code into"):
        submit.send_code(spec(folder, code="mine", **mounted))
    submit.send_code(
        spec(folder, code="mine/helpers.py", **mounted)
    )  # small enough for the ConfigMap


def test_changed_code_under_the_same_name_is_refused_with_its_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ApiServer() as api:
        monkeypatch.setenv("KUBECONFIG", api.kubeconfig(folder / "kubeconfig"))
        Controller(api)
        cluster, said = Cluster(None, None), list[str]()
        submit.submit(cluster, spec(folder, code="mine"), said.append)
        submit.submit(cluster, spec(folder, code="mine"), said.append)
        (folder / "mine" / "helpers.py").write_text("WIDTH = 33\n")
        (folder / "mine" / "more.py").write_text("")
        with pytest.raises(ConfigError) as caught:
            submit.submit(cluster, spec(folder, code="mine"), said.append)
        assert "with other settings: code (helpers.py differs, more.py only here); give" in str(
            caught.value
        )
