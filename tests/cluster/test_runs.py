"""Whole runs in a real cluster: the same weights, whatever dies, and nothing left behind."""

import functools
import json
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.commands import doctor
from tests.support import clusters
from tests.support.clusters import ROOT, STEPS, Done, Space, figure, kubectl, trained_here

LONG = {"preset": "cnn", "steps": 4000, "chunk_steps": 20}


@functools.cache
def _trained_here(settings: str) -> str:
    return trained_here(json.loads(settings))


def reference(train: dict[str, Any]) -> str:
    """Return the weights of an undisturbed local gang."""
    return _trained_here(json.dumps(train))


def weights(space: Space, path: str) -> str:
    return clusters.weights(space.stored(path).uri)


def follow(space: Space, path: str) -> tuple[Done, float | None]:
    """Submit with --follow; return the command's end and the seconds to the first step."""
    began, first, lines = time.monotonic(), None, []
    with space.start("submit", path, "--follow") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            lines.append(line)
            if first is None and "0 | step" in line:
                first = time.monotonic() - began
        err = process.stderr.read()
    return Done(process.returncode, "".join(lines), err, time.monotonic() - began), first


def test_a_gang_trains_to_the_weights_of_a_local_gang(space: Space) -> None:
    path = space.run_file()
    done, first = follow(space, path)
    assert done.code == 0, done.out + done.err
    figure("first step after submit", f"{first:.1f} s")
    result = json.loads(space.k8s("result", path, "-o", "json").out)
    figure("test accuracy", f"{result['test_accuracy']:.2%}")
    assert result["weights_sha256"] == reference(
        {"preset": "cnn", "steps": STEPS, "chunk_steps": 20}
    )
    assert "Succeeded" in done.out.splitlines()[-1]
    # Once the Job and its pods are gone, the folder answers.
    space.k8s("delete", path)
    space.until(lambda: not space.objects("pods"))
    gone = space.k8s("logs", path)
    assert gone.code == 0
    assert "0 | test accuracy" in gone.out
    assert json.loads(space.k8s("result", path, "-o", "json").out) == result
    assert not space.objects("services,networkpolicies,jobs")
    figure("logs and result after the Job is deleted", "answered from the run's folder")


def next_step(space: Space, path: str, after: int) -> float:
    """Wait until rank 0 logs a step past ``after`` and return when."""
    space.until(lambda: space.step(path) > after)
    return time.monotonic()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_comes_back_in_its_pod(space: Space, rank: int) -> None:
    path = space.run_file(train=LONG)
    assert space.k8s("submit", path).code == 0
    space.until(lambda: space.step(path) >= 100)
    pods = {pod["metadata"]["name"] for pod in space.objects("pods")}
    space.kill_worker(path, rank)
    began = time.monotonic()
    step = space.step(path)
    resumed = space.until(lambda: again(space, path))
    figure(f"SIGKILL of rank {rank}'s worker, back after", f"{resumed - began:.1f} s, step {step}")
    assert space.k8s("logs", path, "-f").code == 0
    assert {pod["metadata"]["name"] for pod in space.objects("pods")} == pods
    assert not space.objects("jobs")[0]["status"].get("failed")
    assert weights(space, path) == reference(LONG)


def again(space: Space, path: str) -> float | None:
    """When rank 0 has told of a step after a restart."""
    log = space.kubectl("logs", space.pod_of(path, 0), check=False)
    told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    restarts = [n for n, line in enumerate(told) if line.get("event") == "restarting"]
    back = restarts and any("loss" in line for line in told[restarts[-1] :])
    return time.monotonic() if back else None


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ["delete", "evict"])
def test_a_lost_pod_is_replaced_and_counts_as_no_failure(space: Space, rank: int, how: str) -> None:
    path = space.run_file(train=LONG, retries=0)
    assert space.k8s("submit", path).code == 0
    space.until(lambda: space.step(path) >= 100)
    step, pod = space.step(path), space.pod_of(path, rank)
    began = time.monotonic()
    if how == "delete":
        space.kubectl("delete", "pod", pod, "--wait=false")
    else:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        where = f"/api/v1/namespaces/{space.name}/pods/{pod}/eviction"
        space.kubectl("create", "--raw", where, "-f", "-", stdin=json.dumps(eviction))
    space.until(
        lambda: (
            any(
                p["metadata"]["name"] == pod and "deletionTimestamp" in p["metadata"]
                for p in space.objects("pods")
            )
            or pod_gone(space, pod)
        )
    )
    space.until(lambda: pod_gone(space, pod))
    back = next_step(space, path, 0 if rank == 0 else step)
    figure(f"pod of rank {rank}, {how}: back after", f"{back - began:.1f} s")
    done = space.k8s("logs", path, "-f")
    assert done.code == 0, done.out + done.err
    assert weights(space, path) == reference(LONG)


def pod_gone(space: Space, pod: str) -> bool:
    return pod not in {each["metadata"]["name"] for each in space.objects("pods")}


def test_two_runs_at_once_do_not_meet_and_a_run_submitted_twice_is_one(space: Space) -> None:
    small = {"cpu": "450m", "memory": "2Gi"}
    trains = [{"preset": "cnn", "steps": 400, "seed": seed} for seed in (1, 2)]
    paths = [space.run_file(train=train, resources=small) for train in trains]
    for path in [*paths, *paths]:
        assert space.k8s("submit", path).code == 0
    assert len(space.objects("jobs")) == 2
    assert len(space.objects("pods")) == 4
    for path, train in zip(paths, trains, strict=True):
        done = space.k8s("logs", path, "-f")
        assert done.code == 0, done.out + done.err
        assert weights(space, path) == reference(train)
    figure("two runs at once", "each ended with its own weights")


def test_cancel_stores_a_checkpoint_and_submit_goes_on(space: Space) -> None:
    path = space.run_file(train=LONG)
    assert space.k8s("submit", path).code == 0
    space.until(lambda: space.step(path) >= 100)
    assert space.k8s("cancel", path).code == 0
    space.until(lambda: not space.objects("pods"), 60)
    names = [entry.name for entry in space.stored(path).list("checkpoints/")]
    assert names
    assert space.status(path)["phase"] == "Suspended"
    done, _ = follow(space, path)
    assert done.code == 0, done.out + done.err
    assert "starts, from its last checkpoint if it has one" in done.out
    assert "resuming at step" in done.out
    assert weights(space, path) == reference(LONG)


def test_waiting_adds_little_to_the_time_of_the_job(space: Space) -> None:
    path = space.run_file(workers=1, train={"preset": "softmax", "steps": 250})
    done = space.k8s("submit", path, "--wait")
    assert done.code == 0, done.out + done.err
    [job] = space.objects("jobs")
    began, ended = (
        time.mktime(time.strptime(job["status"][key], "%Y-%m-%dT%H:%M:%SZ"))
        for key in ("startTime", "completionTime")
    )
    figure("submit --wait beyond the Job's own time", f"{done.seconds - (ended - began):.1f} s")


def start_another_program(space: Space, path: str, *command: str) -> None:
    """Submit a run whose pods run this instead of the trainer, past all checks."""
    items = list(yaml.safe_load_all(space.k8s("render", path).out))
    items[-1]["spec"]["template"]["spec"]["containers"][0]["command"] = list(command)
    space.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(items))


def test_a_program_that_ends_with_0_is_no_success(space: Space) -> None:
    path = space.run_file()
    start_another_program(space, path, "python", "-c", "print('\\x1b]0;title\\x07 hello')")
    done = space.k8s("logs", path, "-f")
    assert done.code == 1, done.out + done.err
    assert "every pod ended with 0 but left no result" in done.out.splitlines()[-1]
    assert "\x1b" not in done.out
    status = space.status(path)
    assert (status["phase"], status["cause_kind"]) == ("Failed", "NoResult")
    figure("a program that ends with 0", done.out.splitlines()[-1])


def test_a_program_that_does_nothing_is_given_up(space: Space) -> None:
    path = space.run_file(start_deadline=45)
    start_another_program(space, path, "python", "-c", "import time; time.sleep(600)")
    done = space.k8s("logs", path, "-f")
    assert done.code == 125, done.out + done.err
    assert "not started within" in done.out.splitlines()[-1]
    status = space.status(path)
    assert (status["phase"], status["cause_kind"]) == ("Starting", "NoTrainer")
    assert status["cause"] in done.out.splitlines()[-1]
    figure("a program that does nothing", done.out.splitlines()[-1])


def namespace_gone(space: Space) -> bool:
    return not kubectl("get", "namespace", space.name, "--ignore-not-found").strip()


def test_a_namespace_goes_with_a_run_in_it_as_the_readme_says(space: Space) -> None:
    taking_down = (ROOT / "infra/README.md").read_text().partition("## Taking it down")[2]
    jobs, all_else = taking_down.split("```")[1].strip().splitlines()[1:]
    assert all_else == "kubectl delete -k infra/cluster"  # first of all the namespace
    path = space.run_file(train=LONG)
    assert space.k8s("submit", path).code == 0
    space.until(lambda: space.step(path) >= 100)
    began = time.monotonic()
    kubectl(*jobs.replace("trainyard", space.name).split()[1:])
    kubectl("delete", "namespace", space.name, "--wait=false")
    space.until(lambda: namespace_gone(space))
    figure("a namespace with a run in it, gone after", f"{time.monotonic() - began:.0f} s")


def test_what_follows_a_run_ends_with_its_namespace(space: Space) -> None:
    path = space.run_file(train=LONG)
    assert space.k8s("submit", path).code == 0
    space.until(lambda: space.step(path) >= 100)
    with space.start("logs", path, "-f") as process:
        assert process.stdout is not None
        assert "0 | " in "".join(process.stdout.readline() for _ in range(4))
        kubectl("delete", "namespace", space.name, "--wait=false")
        began, rest = time.monotonic(), process.stdout.read().splitlines()
        assert process.wait(timeout=30) == 1
    took = time.monotonic() - began
    assert took < 60
    assert len([line for line in rest if "| step" not in line]) <= took + 5, rest
    assert f"namespace {space.name} is being deleted" in rest[-1]
    # The Job keeps its pods, and they keep the namespace, until it is deleted by hand.
    command = rest[-1].partition("if it does not go: ")[2].split()
    kubectl(*command[1:])
    space.until(lambda: namespace_gone(space))
    figure("logs -f of a run whose namespace was deleted", f"ended after {took:.0f} s")


@pytest.fixture
def as_submitter(space: Space) -> Space:
    """The namespace as somebody with the Role of infra/ sees it."""
    items = list(yaml.safe_load_all((ROOT / doctor.ROLE).read_text()))
    for item in items:
        item["metadata"]["namespace"] = space.name
        for subject in item.get("subjects", []):
            if "namespace" in subject:
                subject["namespace"] = space.name
    space.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(items))
    token = space.kubectl("create", "token", "submitter").strip()
    config = yaml.safe_load(kubectl("config", "view", "--raw", "--minify"))
    config["users"][0]["user"] = {"token": token}
    path = space.folder / "submitter.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return Space(space.name, space.folder, space.store, str(path))


def test_the_role_suffices_for_every_command(as_submitter: Space) -> None:
    path = as_submitter.run_file(train={"preset": "cnn", "steps": 1500})
    checked = as_submitter.k8s("doctor", path)
    assert checked.code == 0, checked.out + checked.err
    assert as_submitter.k8s("submit", path).code == 0
    as_submitter.until(lambda: as_submitter.status(path)["step"])
    for verb in ("logs", "list", "status", "cancel"):
        arguments = ["--namespace", as_submitter.name] if verb == "list" else [path]
        done = as_submitter.k8s(verb, *arguments)
        assert done.code == 0, (verb, done.err)
    assert as_submitter.k8s("submit", path, "--wait").code == 0
    for verb in ("result", "logs", "delete"):
        done = as_submitter.k8s(verb, path)
        assert done.code == 0, (verb, done.err)


def test_the_role_suffices_to_watch_with_kubectl(as_submitter: Space) -> None:
    path = as_submitter.run_file(workers=1, train={"preset": "softmax", "steps": 250})
    assert as_submitter.k8s("submit", path).code == 0
    name = yaml.safe_load(Path(path).read_text())["name"]
    flags = ["--kubeconfig", as_submitter.kubeconfig, "--namespace", as_submitter.name]
    watches = [
        subprocess.Popen(
            ["kubectl", *flags, "get", kind, "--watch"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for kind in ("pods", "jobs")
    ]
    try:
        waited = ["wait", "--for=condition=complete", f"job/{name}", "--timeout=120s"]
        done = subprocess.run(
            ["kubectl", *flags, *waited], capture_output=True, text=True, timeout=150, check=False
        )
        time.sleep(1)
    finally:
        for watch in watches:
            watch.kill()
    assert (done.returncode, done.stderr) == (0, "")
    for watch in watches:
        out, err = watch.communicate()
        assert err == ""
        assert "Complete" in out


def _names(space: Space, path: str, verb: str, resource: str) -> bool:
    return f"you may not {verb} {resource}" in space.k8s("doctor", path).out


def test_each_verb_taken_away_is_named_by_doctor(as_submitter: Space) -> None:
    path = as_submitter.run_file()
    role = json.loads(as_submitter.kubectl("get", "role", "submitter", "-o", "json"))
    for group, resource, verbs in doctor.PERMISSIONS:
        for verb in verbs:
            rules = [
                {"apiGroups": [g], "resources": [r], "verbs": [v]}
                for g, r, vs in doctor.PERMISSIONS
                for v in vs
                if (g, r, v) != (group, resource, verb)
            ]
            role["rules"] = rules
            role["metadata"].pop("resourceVersion", None)
            as_submitter.kubectl("apply", "-f", "-", stdin=json.dumps(role))
            as_submitter.until(partial(_names, as_submitter, path, verb, resource), 15)
    figure("verbs of the Role that doctor misses when they are taken away", "each one")
