"""Run files: what is refused, and in which words."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from k8s import manifest, run_file, stores
from k8s.run_file import RunSpec
from tests.support.runfiles import FULL, PLAIN, VOLUMES
from trainer.errors import ConfigError

ROOT = Path(__file__).parents[3]


def _volume(**changes: Any) -> dict[str, Any]:
    return {"claim": "c", "mount": "/data", **changes}


def _mounted(run: str = "gs://bucket/x", **changes: Any) -> dict[str, Any]:
    return {"run": run, "volumes": [_volume(**changes)]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "MNIST"}, "name: 'MNIST': must be a-z, 0-9 and -, from a letter"),
        ({"name": "9a"}, "name: '9a': must be"),
        ({"name": None}, "name is missing: Name the run"),
        ({"nmae": 1}, "unknown setting 'nmae'; did you mean name?"),
        ({"epochs": 3}, "unknown setting 'epochs'; settings of the training go under train"),
        ({"train": {"epoch": 3}}, "train: unknown setting 'epoch'; did you mean epochs?"),
        ({"train": {"data": "x"}}, "train.data: does not belong under train; give data instead"),
        ({"train": {"epochs": -1}}, "train: epochs: -1: must be greater than 0"),
        ({"train": {"preset": "cn"}}, "train: preset: 'cn': no such preset; did you mean cnn?"),
        (
            {"data": "bucket/mnist"},
            "data: 'bucket/mnist': must be gs://BUCKET/FOLDER, s3://BUCKET/FOLDER, az://",
        ),
        ({"data": "s3://a/mnist"}, "data: 's3://a/mnist': must be"),
        ({"data": "s3://bucket?versionId=1"}, "must be"),
        ({"data": "abfss://c@account.dfs.example.org/a"}, "must be"),
        ({"data": "az://container/mnist"}, "'az://container/mnist' names no account; give AZURE_"),
        ({"run": "ftp://bucket/runs"}, "run: 'ftp://bucket/runs': ftp:// is no store that Trai"),
        ({"data": "s3://"}, "data: 's3://': names no bucket; write s3://BUCKET/FOLDER"),
        ({"run": "az:///"}, "run: 'az:///': names no container; write az://CONTAINER/FOLDER"),
        ({"data": "hdfs://a/b"}, "hdfs:// is no store that Trainyard knows; give gs://BUCKET"),
        ({"deadline": "1:30"}, "deadline: '1:30': must be seconds or a number with s, m, h or d"),
        ({"run": "gs://bucket/{nmae}"}, "only {name}, {preset} and {digest} are filled in"),
        ({"image": "A b"}, "image: 'A b': must be NAME[:TAG][@sha256:DIGEST]"),
        ({"workers": 0}, "workers: '0': must be greater than or equal to 1"),
        ({"deadline": "3 hours"}, "deadline: '3 hours': must be seconds or a number with s, m, h"),
        ({"resources": {"memory": "64Mi"}}, "resources.memory: '64Mi': must be at least 512Mi"),
        (
            {"resources": {"memory": "2GB"}},
            "resources.memory: '2GB': must be a quantity above 0 and",
        ),
        ({"resources": {"cpu": "0"}}, "resources.cpu: '0': must be a quantity above 0"),
        ({"resources": {"limits": {"cpu": "x"}}}, "resources.limits.cpu: 'x': must be a quantity"),
        (
            {"labels": {"a": "b c"}},
            "'a': 'b c' must be empty or at most 63 letters, digits, -, _ and ., with",
        ),
        (
            {"labels": {"app.kubernetes.io/name": "x"}},
            "app.kubernetes.io/name is set by the Job, its controller or queue; leave it out",
        ),
        (
            {"annotations": {"a b": "x"}},
            "'a b' must be at most 63 letters, digits, -, _ and ., with a letter or digit",
        ),
        ({"annotations": {"trainyard/run-file": "x"}}, "trainyard/run-file is set by the Job"),
        ({"annotations": {"a": "http://u:p@host"}}, "annotations: '...': a looks like a secret"),
        (
            {"run_as_user": 0},
            "run_as_user: '0': must be the number of a user other than root (0), or",
        ),
        ({"run_as_user": "root"}, "run_as_user: 'root': must be the number of a user other than"),
        ({"run_as_user": 2**31}, "run_as_user: '2147483648': must be the number of a user"),
        ({"run_as_user": True}, "run_as_user: 'True': must be a number, not true or false"),
        ({"workers": True}, "workers: 'True': must be a number, not true or false (Start this"),
        ({"groups": [True]}, "groups: '[True]': must be a number, not true or false"),
        ({"train": {"seed": True}}, "train: seed: True: must be a number, not true or false"),
        (
            {"train": {"steps": 10**20}},
            "steps: 100000000000000000000: must be less than 2147483648",
        ),
        ({"ttl": "99999d"}, "ttl: '8639913600': must be less than 2147483648"),
        ({"resources": {"cpu": "1e400"}}, "resources.cpu: '1e400': must be a quantity above 0 and"),
        ({"resources": {"cpu": 10**20}}, "must be a quantity above 0 and up to 1P, such as"),
        ({"labels": {1: "a"}}, "labels.1: '1': must be text; put it in quotes"),
        (
            {"affinity": {"podAffinity": 3}},
            "affinity.podAffinity: '3': must be a mapping",
        ),
        (
            {"affinity": {"podAffinity": {}}, "one_node": True},
            "one_node: is a podAffinity, and affinity has one; keep one",
        ),
        ({"dns_config": {"options": {1: 2}}}, "dns_config.options"),
        ({"files": [{"mount": "/a"}]}, "must name a config_map or a secret, one of them"),
        ({"files": [{"mount": "/etc/a", "secret": "a"}]}, "must be a path that the image does not"),
        ({"files": 2 * [{"mount": "/a", "secret": "a"}]}, "'/a': is mounted twice"),
        (
            {"shm": "much"},
            "shm: 'much': must be a quantity above 0 and up to 1P, such as 2, 500m, 1.5Gi",
        ),
        (
            {"patches": [{"op": "move", "path": "/a"}]},
            "patches.0.op: 'move': must be 'add'",
        ),
        (
            {"patches": [{"op": "add", "path": "/a", "value": "http://u:p@host"}]},
            "patches: '...': hold what looks like a secret, which a manifest is no place for",
        ),
        ({"patches": [{"op": "add", "path": "a"}]}, "patches.0.path: 'a': must match"),
        ({"resources": {"gpu": 1}}, "unknown setting 'resources.gpu'; did you mean gpus?"),
        (
            {"data": "/data"},
            "data: '/data': must lie below the mount of a volume (volumes has none",
        ),
        (_mounted(run="/run/x"), "run: '/run/x': must lie below the mount of a volume (/data)"),
        (_mounted(run="/database"), "run: '/database': must lie below the mount"),
        (_mounted(run="/data/../etc"), "run: '/data/../etc': must be an absolute path without '.'"),
        (_mounted(run="/data//x"), "run: '/data//x': must be an absolute path without"),
        (_mounted(run="/data/x\n"), "must be an absolute path without"),
        (
            _mounted(run="/data/x", read_only=True),
            "claim c at /data is read_only, and a run writes",
        ),
        (
            _mounted(claim="A"),
            "volumes.0.claim: 'A': must be at most 253 of a-z, 0-9, - and ., with",
        ),
        (_mounted(mount="data"), "volumes.0.mount: 'data': must be an absolute path"),
        (_mounted(mount="/tmp/x"), "volumes.0.mount: '/tmp/x': must be a path that the image does"),
        (_mounted(mount="/"), "volumes.0.mount: '/': must be a path that the image does not use"),
        (_mounted(mount="/a:b"), "volumes.0.mount: '/a:b': must hold no colon"),
        (_mounted(sub_path="../x"), "volumes.0.sub_path: '../x': must be a relative path"),
        (_mounted(sub_path="/x"), "volumes.0.sub_path: '/x': must be a relative path"),
        (_mounted(host="/x"), "unknown setting 'volumes.0.host'"),
        ({"volumes": 2 * [_volume()]}, "volumes: '/data': is mounted twice"),
        ({"groups": [0]}, "groups: '[0]': must be numbers of groups from 1 on; 0 is root's"),
        ({"environment": {"TF_CONFIG": "x"}}, "TF_CONFIG is set by the Job; leave it out"),
        ({"environment": {"a-b": "x"}}, "'a-b' must be a variable's name"),
        (
            {"node_selector": {"a b": "c"}},
            "'a b' must be at most 63 letters, digits, -, _ and ., with a letter",
        ),
        (
            {"image_pull_secrets": ["A"]},
            "image_pull_secrets.0: 'A': must be at most 253 of a-z, 0-9, - and ., with",
        ),
        ({"storage_endpoint": "store:80"}, "storage_endpoint: '...': must be http://HOST"),
        ({"environment": {"DB": "pg://u:hunter2@db"}}, "DB looks like a secret"),
        ({"ttl": 0}, "ttl: '0': must be greater than or equal to 60"),
        (
            {"tolerations": [{"effect": "Maybe"}]},
            "tolerations.0.effect: 'Maybe': must be 'NoSchedule'",
        ),
    ],
)
def test_a_bad_value_ends_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        run_file.parse({**PLAIN, **change}, "run.yaml")
    assert str(error.value).startswith("run.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_field_is_named_with_its_meaning() -> None:
    values = {key: value for key, value in PLAIN.items() if key != "image"}
    with pytest.raises(ConfigError, match="image is missing: Run this image"):
        run_file.parse(values, "run.yaml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASSWORD", "hunter2"),
        ("MY_TOKEN", "hunter2"),
        ("api_key", "hunter2"),
        ("AWS_ACCESS_KEY_ID", "hunter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_SESSION_TOKEN", "hunter2"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "hunter2"),
        ("AZURE_STORAGE_ACCESS_KEY", "hunter2"),
        ("AZURE_STORAGE_KEY", "hunter2"),
        ("AZURE_STORAGE_SAS_TOKEN", "hunter2"),
        ("AZURE_STORAGE_SAS_KEY", "hunter2"),
        ("AZURE_STORAGE_CONNECTION_STRING", "hunter2"),
        ("AZURE_CLIENT_SECRET", "hunter2"),
        ("HTTPS_PROXY", "http://me:hunter2@proxy:8080"),
        ("STORE", "AccountName=a;AccountKey=hunter2;EndpointSuffix=core.windows.net"),
        ("STORE", "https://a.blob.core.windows.net/c?sv=2024&sig=hunter2"),
        ("STORE", "AKIAHUNTER2HUNTER2AB"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match="looks like a secret") as error:
        run_file.parse({**PLAIN, "environment": {name: value}}, "run.yaml")
    assert "hunter2" not in str(error.value).lower()
    assert "environment_secrets" in str(error.value)


def test_a_secret_in_a_folder_is_refused_and_not_repeated() -> None:
    for folder in ("s3://AKIDX:hunter2@bucket/a", "https://a.blob.example/c?sig=hunter2"):
        with pytest.raises(ConfigError, match=r"data: '\.\.\.': must be") as error:
            run_file.parse({**PLAIN, "data": folder}, "run.yaml")
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "https://s3.example.org"},
        {"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": True, "AWS_EC2_METADATA_DISABLED": "true"},
        {"AZURE_STORAGE_ACCOUNT_NAME": "account", "SORT_KEY": "a", "MONKEY": "b"},
    ],
)
def test_settings_that_are_no_secrets_are_taken(settings: dict[str, Any]) -> None:
    read = run_file.parse({**PLAIN, "environment": settings}, "run.yaml")
    assert set(read.variables) == set(settings)


S3 = {"data": "s3://bucket/mnist", "run": "s3://bucket/runs/{name}"}


def test_plain_http_to_a_store_of_s3_has_to_be_asked_for() -> None:
    http = {**PLAIN, **S3, "storage_endpoint": "http://store:8333"}
    with pytest.raises(ConfigError, match="http:// to store shows the data") as error:
        run_file.parse(http, "run.yaml")
    assert "AWS_ALLOW_HTTP: true under environment" in str(error.value)
    named = {"AWS_ENDPOINT_URL": "http://store:8333"}
    with pytest.raises(ConfigError, match="http:// to store shows the data"):
        run_file.parse({**PLAIN, **S3, "environment": named}, "run.yaml")
    named = {"AWS_ENDPOINT_URL": "http://[::1"}
    with pytest.raises(ConfigError, match="an endpoint under environment is no URL; give https://"):
        run_file.parse({**PLAIN, **S3, "environment": named}, "run.yaml")
    asked = {"AWS_ALLOW_HTTP": True}
    variables = run_file.parse({**http, "environment": asked}, "run.yaml").variables
    assert variables == {"AWS_ENDPOINT_URL_S3": "http://store:8333", "AWS_ALLOW_HTTP": "true"}
    run_file.parse({**http, "storage_endpoint": "https://store:8333"}, "run.yaml")


def test_the_account_of_azure_is_in_the_folder_the_environment_or_a_secret() -> None:
    folder = "az://runs/{name}"
    for values in (
        {"run": folder, "environment": {"AZURE_STORAGE_ACCOUNT": "account"}},
        {"run": folder, "environment_secrets": ["store"]},
        {"run": "abfss://runs@account.dfs.core.windows.net/{name}"},
        {"run": "https://account.blob.core.windows.net/runs/{name}"},
    ):
        run_file.parse({**PLAIN, **values}, "run.yaml")


def test_an_endpoint_is_that_of_the_services_that_the_run_uses() -> None:
    both = {**PLAIN, "run": S3["run"], "storage_endpoint": "https://store:80"}
    for values, names in (
        (PLAIN, {"STORAGE_EMULATOR_HOST"}),
        ({**PLAIN, **S3}, {"AWS_ENDPOINT_URL_S3"}),
        (both, {"STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL_S3"}),
    ):
        given = run_file.parse({**values, "storage_endpoint": "https://store:80"}, "run.yaml")
        assert given.variables == dict.fromkeys(names, "https://store:80")


@pytest.mark.parametrize(("workers", "longest"), [(1, 55), (11, 54), (1000, 53)])
def test_the_longest_name_is_that_whose_last_pod_has_63_characters(
    workers: int, longest: int
) -> None:
    run_file.parse({**PLAIN, "name": "a" * longest, "workers": workers}, "run.yaml")
    with pytest.raises(ConfigError, match="64 characters, and 63 are allowed; take away 1"):
        run_file.parse({**PLAIN, "name": "a" * (longest + 1), "workers": workers}, "run.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not YAML"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        ("\x00", "not YAML"),
        ("1: 2", "1: must be the name of a setting, as in 'name: mnist-cnn'"),
        ("a: !!int ''", "not YAML"),
        ("a: !!timestamp abc", "not YAML"),
    ],
)
def test_a_file_that_is_no_run_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        run_file.read(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        run_file.read(str(tmp_path / "none.yaml"))


WRITTEN = """
name: mnist
image: trainyard:20250101
data: gs://bucket/mnist
run: gs://bucket/runs/{name}
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("name: other", "line 6: 'name' is given twice, first in line 2; keep one of them"),
        ("train: {seed: 1, seed: 2}", "line 6: 'seed' is given twice, first in line 6"),
        ("train:", "train: has no value; give it one, or leave it out (Train with these"),
        ("train: {epochs: }", "train: epochs: has no value; give it one, or leave it out (Make"),
        ("train: 3", "train: '3': must be a mapping (Train with these"),
        ("deadline: 1:30", "deadline: '1:30': must be seconds or a number with s, m, h or d"),
        ("ttl: 12:30:00", "ttl: '12:30:00': must be seconds or a number with s, m, h or d"),
        ("train: {epochs: 1:30}", "train: epochs: '1:30': must be a valid number"),
        ("namespace: 2026-11-30T00:00:00", "namespace: '2026-11-30T00:00:00': must be at m"),
        ("one_node: 1:00", "one_node: '1:00': must be a valid boolean"),
    ],
)
def test_what_yaml_1_1_reads_otherwise_is_refused(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(WRITTEN + line)
    with pytest.raises(ConfigError) as error:
        run_file.read(str(path))
    assert str(error.value).startswith(f"{path}: {words}")


def test_text_stays_text_and_numbers_are_decimal(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"{WRITTEN}train: {{seed: 010}}\none_node: yes\nservice_account: no\n"
        "environment: {A: 1.10, B: 010, C: 12:30:00, D: on, E: True, F: 1e3, on: x}\n"
        "node_selector: {zone: 010, gpu: true}\n"
    )
    spec = run_file.read(str(path))
    assert spec.environment == {
        **{"A": "1.10", "B": "010", "C": "12:30:00", "D": "on", "E": "True", "F": "1e3"},
        "on": "x",
    }
    assert spec.node_selector == {"zone": "010", "gpu": "true"}
    assert (spec.config.seed, spec.one_node, spec.service_account) == (10, True, "no")
    assert spec.pinned() == "20250101"


def test_values_are_read_as_people_write_them() -> None:
    full = run_file.parse(FULL, "run.yaml")
    assert (full.deadline, full.start_deadline, full.ttl) == (28800, 1800, 604800)
    assert full.resources.cpu == "3.5"
    assert full.environment["TF_CPP_MIN_LOG_LEVEL"] == "1"
    exact = run_file.parse({**PLAIN, "environment": {"A": 20261120, "B": 0.123456789}}, "x")
    assert exact.environment == {"A": "20261120", "B": "0.123456789"}
    run_file.parse({**PLAIN, "environment": {"TOKENIZERS_PARALLELISM": "false"}}, "x")
    assert run_file.parse({**PLAIN, "resources": {"memory": 2147483648}}, "x").resources.memory
    assert full.run_uri.startswith("gs://bucket/runs/fashion-mlp-100-")
    assert full.config.workers == 12
    assert full.config.steps == 0  # the epochs win over the preset's steps
    assert full.config.log_format == "json"
    assert run_file.parse(PLAIN, "run.yaml").config.log_format == "json"
    assert run_file.parse(FULL, "x", namespace="other").namespace == "other"


def test_folders_of_pods_are_below_mounts() -> None:
    spec = run_file.parse(VOLUMES, "x")
    assert (spec.data, spec.run_uri) == ("/data/mnist", "/runs/mnist")
    whole = {
        **VOLUMES,
        "data": "/data/",
        "volumes": [_volume(mount="/data/"), _volume(mount="/runs")],
    }
    assert run_file.parse(whole, "x").data == "/data"  # the mount itself will do
    # The innermost mount is the one that a path is on.
    inner = [_volume(read_only=True), _volume(mount="/data/runs", claim="d")]
    run_file.parse({**PLAIN, "run": "/data/runs/x", "volumes": inner}, "x")
    with pytest.raises(ConfigError, match="claim c at /data is read_only"):
        run_file.parse({**PLAIN, "run": "/data/x", "volumes": inner}, "x")


def test_two_ways_to_write_a_run_are_one() -> None:
    written = {**PLAIN, "deadline": "24h", "retries": 3, "resources": {"cpu": 1}}
    assert run_file.parse(written, "a").canonical() == run_file.parse(PLAIN, "b").canonical()
    other = run_file.parse({**PLAIN, "workers": 2, "train": {"seed": 5}}, "c").canonical()
    again = run_file.parse(json.loads(other), "d")
    assert again.canonical() == other


@pytest.mark.parametrize(
    ("image", "pinned"),
    [
        ("trainyard", False),
        ("trainyard:latest", False),
        ("trainyard:1.2", True),
        ("trainyard:20250101", True),
        ("host:5000/trainyard", False),
        ("host:5000/trainyard:7", True),
        ("trainyard@sha256:" + "a" * 64, True),
    ],
)
def test_pinned(image: str, *, pinned: bool) -> None:
    assert (run_file.parse({**PLAIN, "image": image}, "x").pinned() is not None) == pinned


def test_the_schema_knows_every_field_and_no_other() -> None:
    schema = run_file.schema()
    assert set(schema["properties"]) == set(RunSpec.model_fields)
    assert schema["additionalProperties"] is False
    train = schema["properties"]["train"]
    assert "epochs" in train["properties"]
    assert "data" not in train["properties"]
    assert json.loads((ROOT / "runs/schema.json").read_text()) == schema, "run: make schema"


def test_the_run_files_of_the_project_are_good() -> None:
    read = {path.stem: run_file.read(str(path)) for path in (ROOT / "runs").glob("*.yaml")}
    services = {name: stores.of(spec.run) for name, spec in read.items()}
    assert services == {
        "gcs": stores.GCS,
        "s3": stores.S3,
        "azure": stores.AZURE,
        "volume": None,
        "local": stores.S3,
        "own": stores.GCS,
    }
    own = read.pop("own")
    assert own.archive is not None
    assert {spec.name for spec in read.values()} == {"mnist-cnn"}  # the same run everywhere


def _row(name: str, field: dict[str, Any], required: list[str]) -> str:
    value = field.get("default")
    shown = value if isinstance(value, str) else json.dumps(value)
    default = "" if value in (None, {}, []) else f"`{shown}`"
    default = "required" if name.rpartition(".")[2] in required else default
    return f"| `{name}` | {default} | {field['description']} |"


def test_the_page_of_run_files_has_every_setting_as_the_schema_has_it() -> None:
    page = (ROOT / "docs/run-file.md").read_text()
    schema, models = run_file.schema(), {"resources": "Resources", "volumes": "Volume"}
    rows = [_row(name, each, schema["required"]) for name, each in schema["properties"].items()]
    for field, model in (models | {"files": "Files", "patches": "Patch"}).items():
        its = schema["$defs"][model]
        required = its.get("required", [])
        rows += [
            _row(f"{field}.{name}", each, required) for name, each in its["properties"].items()
        ]
    assert re.findall(r"^\| `.*", page, re.MULTILINE) == rows


def test_the_run_files_of_the_page_are_good(tmp_path: Path) -> None:
    page = (ROOT / "docs/run-file.md").read_text()
    blocks = re.findall(r"^( *)```yaml\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    for indent, block in blocks:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(PLAIN) + re.sub(f"^{indent}", "", block, flags=re.MULTILINE))
        for item in manifest.objects(run_file.read(str(path))):
            kubernetes_validate.validate(item, "1.29", strict=True)


def test_the_page_of_stores_has_run_files_and_every_setting() -> None:
    page = (ROOT / "docs/storage.md").read_text()
    written = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(written) > 1
    for values in written:
        if "data" in values:
            run_file.parse({**PLAIN, **values}, "docs/storage.md")
        assert "kind" in values or set(values) <= set(RunSpec.model_fields)
    for service in stores.SERVICES:
        assert service.example.partition("://")[0] + "://" in page
        assert all(f"`{name}`" in page for name in service.endpoints)
    secret = re.findall(r"create secret generic (\S+)", page)
    assert secret == run_file.read(str(ROOT / "runs/local.yaml")).environment_secrets
