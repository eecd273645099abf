"""docs/from-tfjob.md: its run file is one, and its table has every field of its TFJob."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from k8s import manifest, run_file

PAGE = (Path(__file__).parents[3] / "docs/from-tfjob.md").read_text()
PLACES = ("apiVersion", "kind", "metadata", "spec", "template", "value")  # of other fields
[CODE] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
TFJOB, RUN = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


def fields(value: Any) -> Iterator[str]:
    for inner in value if isinstance(value, list) else []:
        yield from fields(inner)
    for name, inner in value.items() if isinstance(value, dict) else []:
        yield name
        if name not in ("nodeSelector", "limits"):
            yield from fields(inner)


def submitted(folder: Path) -> run_file.RunSpec:
    (folder / "mnist.py").write_text(CODE)
    (folder / "mnist.yaml").write_text(RUN)
    return run_file.read(str(folder / "mnist.yaml"))


def test_the_run_file_is_valid_and_carries_the_code(tmp_path: Path) -> None:
    spec = submitted(tmp_path)
    assert spec.archive is not None
    assert "build_model" in {
        node.name for node in ast.parse(CODE).body if isinstance(node, ast.FunctionDef)
    }
    assert spec.config.model == "mnist:build_model"


def test_the_pair_asks_for_the_same(tmp_path: Path) -> None:
    tfjob, spec = yaml.safe_load(TFJOB), submitted(tmp_path)
    *_, job = manifest.objects(spec)
    policy, [worker] = tfjob["spec"]["runPolicy"], tfjob["spec"]["tfReplicaSpecs"].values()
    ours, theirs = job["spec"]["template"]["spec"], worker["template"]["spec"]
    assert job["metadata"]["name"] == tfjob["metadata"]["name"]
    assert job["metadata"]["namespace"] == tfjob["metadata"]["namespace"]
    assert job["spec"]["completions"] == worker["replicas"]
    assert job["spec"]["activeDeadlineSeconds"] == policy["activeDeadlineSeconds"]
    assert job["spec"]["ttlSecondsAfterFinished"] == policy["ttlSecondsAfterFinished"]
    assert job["spec"]["backoffLimitPerIndex"] == policy["backoffLimit"]
    assert job["metadata"]["labels"][manifest.QUEUE] == policy["schedulingPolicy"]["queue"]
    assert ours["priorityClassName"] == policy["schedulingPolicy"]["priorityClass"]
    for name in ("serviceAccountName", "nodeSelector"):
        assert ours[name] == theirs[name]
    [ours], [theirs] = ours["containers"], theirs["containers"]
    assert ours["resources"]["limits"] == theirs["resources"]["limits"]
    assert all(variable in ours["env"] for variable in theirs["env"])


def test_every_field_of_the_tfjob_is_spoken_of() -> None:
    said = PAGE.partition("## Field by field")[2]
    missing = [name for name in fields(yaml.safe_load(TFJOB)) if name not in said]
    assert set(missing) <= set(PLACES)
