"""The run file of docs/from-tfjob.md trains with the code that its TFJob's container ran."""

import re

import yaml

from tests.support.clusters import ROOT, Space, figure
from trainer.runs import run_folder

PAGE = (ROOT / "docs/from-tfjob.md").read_text()
# What a namespace for a test has none of.
ELSEWHERE = ("service_account", "node_selector", "queue", "priority_class")


def test_the_pair_trains(space: Space) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    _, run = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (space.folder / "mnist.py").write_text(code)
    values = yaml.safe_load(run)
    kept = {name: value for name, value in values.items() if name not in ELSEWHERE}
    ours = yaml.safe_load((ROOT / space.run_file()).read_text())
    placed = {name: ours[name] for name in ("namespace", "image", "data", "storage_endpoint")}
    kept |= {**placed, "run": f"gs://bucket/{space.name}/{{name}}"}
    # Fewer steps, and processors of one machine that does other work, too.
    kept["resources"] = {"cpu": "50m", "memory": "2Gi", "limits": {"cpu": "1"}}
    kept["train"] = {**kept["train"], "steps": 100, "chunk_steps": 20}
    path = space.folder / "mnist.yaml"
    path.write_text(yaml.safe_dump(kept))
    done = space.k8s("submit", str(path), "--wait")
    assert done.code == 0, done.out + done.err
    result = run_folder.read_result(space.stored(str(path))) or {}
    assert (result["steps"], result["workers"]) == (100, 2)
    assert result["test_accuracy"] > 0.6
    figure("the run of docs/from-tfjob.md", f"{result['test_accuracy']:.2%} after 100 steps")
