"""A user's own code in pods of the stock image: runs/own.yaml and runs/mymodels.py."""

import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clusters import (
    IMAGE,
    OWN,
    RESOURCES,
    ROOT,
    Space,
    figure,
    trained_here,
    weights,
    write_own_code,
)
from trainer.runs import user_code

EXAMPLE = ROOT / "runs/own.yaml"
MODEL = (ROOT / "runs/mymodels.py").read_text()


def run_file(space: Space, folder: Path, **changes: Any) -> str:
    """Write the example's run file and model into a folder, with this cluster's places."""
    example = yaml.safe_load(EXAMPLE.read_text())
    if not folder.exists():
        folder.mkdir()
        (folder / "mymodels.py").write_text(MODEL)
    places: dict[str, Any] = {
        "namespace": space.name,
        "image": IMAGE,
        "data": "gs://bucket/mnist",
        "run": f"gs://bucket/{space.name}/{{name}}",
        "resources": RESOURCES,
        "service_account": None,  # of a cluster where it has rights in a bucket
        "storage_endpoint": space.store,
        "train": OWN,
    }
    path = folder / EXAMPLE.name
    path.write_text(yaml.safe_dump({**example, **places, **changes}))
    return str(path)


def test_the_example_trains_to_the_weights_of_this_machine(space: Space, tmp_path: Path) -> None:
    own = {"train": yaml.safe_load(EXAMPLE.read_text())["train"]}
    path = run_file(space, tmp_path / "mine", **own)
    done = space.k8s("submit", path, "--follow")
    assert done.code == 0, done.out + done.err
    here = trained_here({**own["train"], "code": "mymodels.py"}, tmp_path / "mine")
    assert weights(space.stored(path).uri) == here
    figure("weights of own code, on this machine and in the cluster", here)

    # While the Job is there, its ConfigMap says what changed; afterwards the run's folder does.
    (tmp_path / "mine/mymodels.py").write_text(MODEL.replace("0.3", "0.4"))
    refused = space.k8s("submit", path)
    assert refused.code == 2
    assert "with other settings: code (mymodels.py differs); give another name" in refused.err
    space.k8s("delete", path)
    space.until(lambda: not space.objects("pods"))
    refused = space.k8s("submit", path)
    assert refused.code == 2, refused.out
    assert "code (mymodels.py differs)" in refused.out + refused.err
    assert not space.objects("jobs")
    figure("own code changed under the same name", refused.out.strip())


def test_a_package_that_the_image_lacks_is_named(space: Space, tmp_path: Path) -> None:
    path = run_file(space, tmp_path / "mine")
    (tmp_path / "mine/mymodels.py").write_text(f"import pytest\n\n{MODEL}")  # here, not there
    done = space.k8s("submit", path, "--wait")
    assert done.code == 1, done.out + done.err
    cause = str(space.status(path)["cause"])
    assert "mymodels.py:1: imports 'pytest', which is not there" in cause
    assert cause in done.out.splitlines()[-1]
    assert "0 | step" not in space.k8s("logs", path).out
    [job] = space.objects("jobs")
    assert "PodFailurePolicy" in str(job["status"]["conditions"])
    figure("own code with a package that the image lacks", cause)


def test_a_package_that_nobody_has_is_refused_before_anything_is_sent(
    space: Space, tmp_path: Path
) -> None:
    path = run_file(space, tmp_path / "mine")
    (tmp_path / "mine/mymodels.py").write_text(f"import none_such\n\n{MODEL}")
    refused = space.k8s("submit", path)
    assert refused.code == 2
    assert "mymodels.py:1: imports 'none_such', which is not there" in refused.out
    assert not space.objects("jobs")


@pytest.mark.parametrize("size", [400_000, 2_000_000])
def test_code_of_any_size_comes_to_the_pods(space: Space, tmp_path: Path, size: int) -> None:
    write_own_code(tmp_path / "mine", size)
    path = run_file(space, tmp_path / "mine", code=".", name=f"run-{uuid.uuid4().hex[:6]}")
    done = space.k8s("submit", path, "--wait")
    assert done.code == 0, done.out + done.err
    stored = space.stored(path)
    [name] = [entry.name for entry in stored.list(f"{user_code.FOLDER}/")]
    assert stored.read(name) == user_code.pack(tmp_path / "mine").data
    assert weights(stored.uri) == trained_here({**OWN, "code": "."}, tmp_path / "mine")
    figure(f"own code with a file of {size:,} bytes", "trained to the weights of this machine")


def test_kubectl_applies_what_render_prints(space: Space, tmp_path: Path) -> None:
    path = run_file(space, tmp_path / "mine", workers=1)
    space.kubectl("apply", "-f", "-", stdin=space.k8s("render", path).out)
    done = space.k8s("logs", path, "-f")
    assert done.code == 0, done.out + done.err
