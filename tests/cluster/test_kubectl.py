"""Every command of docs/kubectl.md, on a run that succeeds and on one that fails."""

import json
import re
import shlex

from tests.support.clusters import ROOT, Space, figure

SMALL = {"cpu": "50m", "memory": "1Gi", "limits": {"cpu": "1"}}
SOFTMAX = {"preset": "softmax", "steps": 300, "report": False, "tensorboard": "off"}
PAGE = (ROOT / "docs/kubectl.md").read_text()


def commands(name: str) -> list[str]:
    """Return the page's commands for this run, in their order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    return [line.replace("NAME", name) for block in blocks for line in block.splitlines()]


def ask(space: Space, command: str, *, check: bool = True) -> str:
    program, *arguments = shlex.split(command)
    assert program == "kubectl"
    return space.kubectl(*arguments, check=check)


def test_kubectl_shows_a_run_to_its_end(space: Space) -> None:
    path = space.run_file(name="good", workers=1, resources=SMALL, train=SOFTMAX)
    assert space.k8s("submit", path).code == 0
    said = {}
    for command in commands("good"):
        if "condition=failed" in command or "patch" in command or "sweep" in command:
            continue  # below
        said[command] = ask(space, command)
        assert said[command].strip(), command
    by_words = {" ".join(command.split()[1:3]): text for command, text in said.items()}
    assert "condition met" in by_words["wait --for=condition=complete"]
    last = json.loads(by_words["logs --tail=1"])
    assert last["message"].startswith("results in gs://bucket/")
    assert "test accuracy" in by_words["logs job/good"]
    assert "good-0-" in by_words["get pods"]


def test_kubectl_shows_why_a_run_failed(space: Space) -> None:
    train = {**SOFTMAX, "learning_rate": 1e37}
    path = space.run_file(name="bad", workers=1, resources=SMALL, train=train)
    assert space.k8s("submit", path).code == 0  # and nobody follows it
    [wait, describe, causes] = [
        command
        for command in commands("bad")
        if "condition=failed" in command or "describe" in command or "custom-columns" in command
    ]
    assert "condition met" in ask(space, wait)
    described = ask(space, describe)
    assert "exit code 2" in described
    assert "trainyard/exit-codes: 2 settings, 65 data" in described
    assert "trainyard/ended" not in described
    assert space.status(path)["phase"] == "Failed"
    described = ask(space, describe)
    assert re.search(r"trainyard/ended: Failed: loss became .*lower learning_rate", described)
    shown = ask(space, causes)
    assert "lower learning_rate" in shown
    figure("kubectl get pods, of a run that failed", shown.splitlines()[1])


def test_kubectl_stops_and_resumes_a_run(space: Space) -> None:
    train = {**SOFTMAX, "steps": 2_000_000}
    path = space.run_file(name="long", workers=1, resources=SMALL, train=train)
    assert space.k8s("submit", path).code == 0
    space.until(lambda: space.step(path) > 0, 300)
    progress = next(command for command in commands("long") if "--tail=1" in command)
    assert space.until(lambda: '"total_steps": 2000000' in ask(space, progress), 60)
    stop, resume = (command for command in commands("long") if "patch" in command)
    ask(space, stop)
    space.until(lambda: not space.objects("pods"), 90)
    assert [entry.name for entry in space.stored(path).list("checkpoints/")]
    ask(space, resume)
    space.until(lambda: space.step(path) > 0, 300)


def test_kubectl_finds_the_runs_of_a_sweep(space: Space) -> None:
    text = f"folder: gs://bucket/{space.name}/sweep\ngrid: {{seed: [1, 2]}}\nparallel: 2\n"
    (space.folder / "sweep.yaml").write_text(text)
    path = space.run_file(name="seeds", workers=1, resources=SMALL, train=SOFTMAX)
    assert space.k8s("sweep", str(space.folder / "sweep.yaml"), "--on", path).code == 0
    get, delete = (command for command in commands("seeds") if "trainyard/sweep" in command)
    assert ask(space, get).count("Complete") == 2
    ask(space, delete)
    assert not space.objects("jobs")


def test_the_pages_commands_are_those_that_are_tried_here() -> None:
    kinds = ("get jobs", "wait --for", "logs ", "describe job", "get pods", "patch job", "delete ")
    for command in commands("x"):
        assert any(command.startswith(f"kubectl {kind}") for kind in kinds), command
