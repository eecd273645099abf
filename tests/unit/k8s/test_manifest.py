"""The objects of a run: valid for the API, restricted, and the same every time."""

import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings

from k8s import manifest, pod_security, run_file
from tests.support import series
from tests.support.runfiles import FULL, PLAIN, VOLUMES, run_files
from tests.support.runfiles import spec as run_spec
from trainer import config, presets
from trainer.cluster_spec import from_environment
from trainer.errors import ConfigError
from trainer.gang import time_limits

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/data/golden"
RELEASES = ("1.29", "1.31", "1.33", "1.35", "1.36", "1.37")
CASES = {"plain": PLAIN, "full": FULL, "volumes": VOLUMES}
RUN_FILES = series.length(60, 5000)


def objects(values: dict[str, Any]) -> list[dict[str, Any]]:
    return manifest.objects(run_file.parse(values, "run.yaml"))


def pod(job: dict[str, Any]) -> dict[str, Any]:
    template: dict[str, Any] = job["spec"]["template"]["spec"]
    return template


def base() -> list[dict[str, Any]]:
    return [yaml.safe_load((manifest.FOLDER / name).read_text()) for name in manifest.FILES]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", [*CASES, "base"])
def test_every_object_is_valid_for_the_api(case: str, release: str) -> None:
    for item in base() if case == "base" else objects(CASES[case]):
        kubernetes_validate.validate(item, release, strict=True)


def test_the_schemas_would_notice_a_wrong_field() -> None:
    job = objects(PLAIN)[-1]
    job["spec"]["backOffLimitPerIndex"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, RELEASES[-1], strict=True)


@pytest.mark.parametrize("case", CASES)
def test_pods_meet_the_restricted_level(case: str) -> None:
    assert pod_security.violations(pod(objects(CASES[case])[-1])) == []


@pytest.mark.parametrize("case", CASES)
def test_golden_files(case: str) -> None:
    path = GOLDEN / f"{case}.yaml"
    text = manifest.as_yaml(objects(CASES[case]))
    if os.environ.get("TRAINYARD_WRITE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, "if this change is meant: make golden"


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_run_file_of_the_project_renders(path: Path) -> None:
    rendered = manifest.objects(run_file.read(str(path)))
    for item in rendered:
        kubernetes_validate.validate(item, RELEASES[-1], strict=True)
    assert pod_security.violations(pod(rendered[-1])) == []


def test_pods_mount_each_claim_once_and_may_write_only_where_they_must() -> None:
    its = pod(objects(VOLUMES)[-1])
    sources = [v["persistentVolumeClaim"] for v in its["volumes"] if "persistentVolumeClaim" in v]
    assert sources == [{"claimName": "datasets", "readOnly": True}, {"claimName": "team"}]
    assert its["securityContext"]["fsGroup"] == its["securityContext"]["runAsGroup"]
    assert its["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    only_read = {**PLAIN, "volumes": [{"claim": "a", "mount": "/data", "read_only": True}]}
    assert "fsGroup" not in pod(objects(only_read)[-1])["securityContext"]


def test_the_manifests_are_those_of_the_example_run_file() -> None:
    rendered = manifest.objects(run_file.read(str(ROOT / "runs/gcs.yaml")))
    for item in rendered:
        assert item["metadata"].pop("namespace") == "trainyard"
        item["metadata"].get("annotations", {}).pop(manifest.RUN_FILE, None)
    assert rendered == base(), "k8s/manifests/*.yaml and runs/gcs.yaml differ"
    listed = yaml.safe_load((ROOT / "k8s/manifests/kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(manifest.FILES)


def test_the_job_keeps_the_protocol() -> None:
    job = objects(FULL)[-1]["spec"]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (12, 12, "Indexed")
    assert (job["maxFailedIndexes"], job["backoffLimitPerIndex"]) == (0, 10)
    assert job["podReplacementPolicy"] == "Failed"
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    rules: dict[str, list[Any]] = {}
    for rule in job["podFailurePolicy"]["rules"]:
        rules.setdefault(rule["action"], [])
        rules[rule["action"]] += rule.get("onExitCodes", {}).get("values", ["DisruptionTarget"])
    assert rules == {"FailJob": [2, 65, 71], "Ignore": ["DisruptionTarget", 75]}


def test_pods_have_as_long_to_stop_as_the_trainer_takes() -> None:
    given = pod(objects(PLAIN)[-1])["terminationGracePeriodSeconds"]
    assert given == time_limits.RUN_GRACE > time_limits.GRACE + time_limits.ENDING


def test_a_pod_is_told_of_its_gang_as_the_trainer_reads_it() -> None:
    container = pod(objects(FULL)[-1])["containers"][0]
    variables = {each["name"]: each["value"] for each in container["env"]}
    gang = from_environment({**variables, "JOB_COMPLETION_INDEX": "11"})
    assert gang is not None
    assert gang.addresses[3] == "fashion-3.fashion:2222"
    assert gang.rendezvous == "fashion-0.fashion:2223"
    ports = {port["containerPort"] for port in container["ports"]}
    assert gang.all_reduce_address == ("", 2224)
    assert ports == {2222, 2223, 2224}


@pytest.mark.parametrize(
    "train",
    [FULL["train"], {}, {"model": "models.mine:wide"}, {"model": "a.b:c", "preset": "softmax"}],
)
def test_the_config_is_what_the_run_file_says(train: dict[str, Any]) -> None:
    full = run_file.parse({**FULL, "train": train}, "run.yaml")
    written = yaml.safe_load(manifest.objects(full)[0]["data"]["config.yaml"])
    assert presets.configure(written, {}) == full.config
    assert set(written) < set(config.TrainConfig.model_fields)


def test_a_pod_asks_for_the_workload_identity_of_azure_where_it_needs_it() -> None:
    azure = {"run": "abfss://runs@account.dfs.core.windows.net/{name}"}
    account = {"service_account": "trainer"}
    for values, asks in (({}, False), (account, False), (azure, False), (azure | account, True)):
        job = objects({**PLAIN, **values})[-1]
        labels = job["spec"]["template"]["metadata"]["labels"]
        assert (labels.get("azure.workload.identity/use") == "true") == asks


def test_only_the_runs_own_pods_reach_its_ports() -> None:
    [_, policy, service, job] = objects(FULL)
    labels = job["spec"]["template"]["metadata"]["labels"].items()
    own = {"app.kubernetes.io/name": "trainyard", "app.kubernetes.io/instance": "fashion"}
    assert policy["spec"]["podSelector"]["matchLabels"] == own == service["spec"]["selector"]
    assert own.items() <= labels
    rule, patched = policy["spec"]["ingress"]
    assert patched == FULL["patches"][-1]["value"]
    assert rule["from"] == [{"podSelector": {"matchLabels": own}}]
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_limits_differ_from_what_is_given_where_they_are_told_to() -> None:
    resources = {"cpu": "500m", "limits": {"cpu": None, "memory": "3Gi", "ephemeral-storage": "1G"}}
    container = pod(objects({**PLAIN, "resources": resources})[-1])["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "500m", "memory": "2Gi"},
        "limits": {"memory": "3Gi", "ephemeral-storage": "1G"},
    }
    plain = pod(objects(PLAIN)[-1])["containers"][0]["resources"]
    assert plain["requests"] == plain["limits"] == {"cpu": "1", "memory": "2Gi"}


def test_the_user_is_the_images_one_of_the_file_or_the_clusters() -> None:
    for user, ids in ((65532, (65532,) * 3), (1000650000, (1000650000,) * 3), ("cluster", ())):
        context = pod(objects({**VOLUMES, "run_as_user": user})[-1])["securityContext"]
        given = [context.get(name) for name in ("runAsUser", "runAsGroup", "fsGroup")]
        assert tuple(filter(None, given)) == ids
        assert context["runAsNonRoot"] is True


def test_all_workers_of_one_node_and_a_given_affinity_hold_together() -> None:
    node: Any = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    values = {**PLAIN, "one_node": True, "affinity": {"nodeAffinity": node}}
    affinity = pod(objects(values)[-1])["affinity"]
    assert affinity["nodeAffinity"] == node
    [term] = affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "mnist"


def test_a_queue_admits_a_suspended_job_and_never_part_of_it() -> None:
    job = objects(FULL)[-1]
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][manifest.QUEUE] == "team-a"
    assert "job-min-parallelism" not in manifest.as_yaml([job])


@pytest.mark.long
def test_random_run_files_render_valid_objects_or_end_in_one_line() -> None:
    rendered, refused = [], []

    @settings(max_examples=RUN_FILES, deadline=None, database=None)
    @given(run_files())
    def check(values: Any) -> None:
        try:
            items = objects(values)
        except ConfigError as error:
            refused.append(str(error))
            return
        for item in items:
            kubernetes_validate.validate(item, RELEASES[-1], strict=True)
        assert pod_security.violations(pod(items[-1])) == []
        assert manifest.as_yaml(items) == manifest.as_yaml(objects(values))
        assert list(yaml.safe_load_all(manifest.as_yaml(items))) == items
        rendered.append(values)

    check()
    named = ("run.yaml: ", "patches.")
    assert all(line.startswith(named) and "\n" not in line for line in refused)
    assert min(len(rendered), len(refused)) > RUN_FILES / 20


def test_metrics_are_reachable_only_where_they_are_asked_for() -> None:
    def parts(**train: Any) -> tuple[list[Any], list[Any]]:
        _, policy, _, job = manifest.objects(run_spec(train=train))
        ports = job["spec"]["template"]["spec"]["containers"][0]["ports"]
        return policy["spec"]["ingress"], ports

    closed, ports = parts()
    assert parts(metrics_port=0) == (closed, ports)
    assert "metrics" not in [port["name"] for port in ports]
    [gang, anybody], more = parts(metrics_port=9400)
    assert [gang] == closed
    assert anybody == {
        "from": [{"namespaceSelector": {}}],
        "ports": [{"port": "metrics", "protocol": "TCP"}],
    }
    assert more == [*ports, {"name": "metrics", "containerPort": 9400, "protocol": "TCP"}]


@pytest.mark.parametrize("port", run_file.GANG_PORTS)
def test_metrics_have_a_port_of_their_own(port: int) -> None:
    with pytest.raises(ConfigError, match=f"train.metrics_port: {port}: is a port of the workers"):
        run_spec(train={"metrics_port": port})
    ports = manifest.objects(run_spec())[3]["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert port in [each["containerPort"] for each in ports]
