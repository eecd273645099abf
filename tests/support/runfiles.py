"""Run files for tests: a plain one, a full one, and any number of random ones."""

from typing import Any

from hypothesis import strategies as st

from k8s.run_file import RunSpec, parse
from trainer import presets

PLAIN: dict[str, Any] = {
    "name": "mnist",
    "image": "trainyard:0.1.0",
    "data": "gs://bucket/mnist",
    "run": "gs://bucket/runs/{name}",
}
FULL: dict[str, Any] = {
    "name": "fashion",
    "namespace": "vision",
    "image": "example.org/ml/trainyard:0.1.0@sha256:" + "0123456789abcdef" * 4,
    "data": "gs://bucket/fashion",
    "run": "gs://bucket/runs/{name}-{preset}-{digest}",
    "workers": 12,
    "resources": {
        "cpu": 3.5,
        "memory": "12Gi",
        "gpus": 2,
        "limits": {"cpu": None, "memory": "1.6e10", "ephemeral-storage": "4Gi"},
    },
    "train": {"preset": "mlp-100", "epochs": 3, "seed": 7, "log_format": "text"},
    "environment": {"TF_CPP_MIN_LOG_LEVEL": 1, "LANG": "C.UTF-8"},
    "environment_secrets": ["proxy"],
    "node_selector": {"cloud.example.org/pool": "gpu"},
    "tolerations": [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}],
    "priority_class": "batch",
    "service_account": "trainer",
    "image_pull_secrets": ["registry"],
    "image_pull_policy": "Always",
    "queue": "team-a",
    "deadline": "8h",
    "start_deadline": "30m",
    "ttl": "7d",
    "retries": 10,
    "storage_endpoint": "http://store:4443",
    "labels": {"team": "vision", "cost-center": "010"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "run_as_user": 1000650000,
    "affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 1,
                    "preference": {"matchExpressions": [{"key": "new", "operator": "Exists"}]},
                }
            ]
        }
    },
    "topology_spread": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
        }
    ],
    "runtime_class": "nvidia",
    "scheduler_name": "bin-packing",
    "host_aliases": [{"ip": "10.0.0.1", "hostnames": ["store.corp"]}],
    "dns_config": {"searches": ["corp"], "options": [{"name": "ndots", "value": "2"}]},
    "files": [
        {"config_map": "corporate-ca", "mount": "/certificates"},
        {"secret": "federation", "mount": "/federation"},
    ],
    "shm": "1Gi",
    "patches": [
        {"op": "add", "path": "/spec/template/spec/dnsPolicy", "value": "ClusterFirst"},
        {
            "op": "add",
            "path": "/spec/template/spec/containers/-",
            "value": {
                "name": "logs",
                "image": "example.org/logs:1",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            },
        },
        {
            "kind": "NetworkPolicy",
            "op": "add",
            "path": "/spec/ingress/-",
            "value": {"from": [{"namespaceSelector": {}}], "ports": [{"port": 9090}]},
        },
    ],
}
# Both folders on claims: one that is only read, and one that is mounted twice.
VOLUMES: dict[str, Any] = {
    **PLAIN,
    "data": "/data/mnist",
    "run": "/runs/{name}",
    "workers": 2,
    "one_node": True,
    "groups": [2000],
    "volumes": [
        {"claim": "datasets", "mount": "/data", "read_only": True},
        {"claim": "team", "mount": "/runs", "sub_path": "vision/runs"},
        {"claim": "team", "mount": "/models", "sub_path": "vision/models", "read_only": True},
    ],
}


def spec(**changes: Any) -> RunSpec:
    """Return the plain run file's spec with some fields changed."""
    return parse({**PLAIN, **changes}, "run.yaml")


def _text(alphabet: str, longest: int) -> st.SearchStrategy[str]:
    return st.text(alphabet, max_size=longest)


_name = _text("abz09-.A_", 70) | st.from_regex(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True)
_uri = st.from_regex(r"(gs|s3|az)://[a-z0-9._-]{3,20}(/[a-z0-9{}._-]{1,20}){0,3}", fullmatch=True)
_path = st.from_regex(r"/[a-z]{1,5}(/[a-z{}.]{0,6}){0,2}", fullmatch=True)
_any = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_scrap = st.recursive(_any, lambda inner: st.lists(inner, max_size=2), max_leaves=3)
_quantity = st.integers(0, 64) | st.sampled_from(["500m", "2Gi", "0.5", "600Mi", "1e3", "4G", ""])
_time = st.integers(-1, 10**6) | st.sampled_from(["90m", "8h", "2d", "1w", ""])

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": _name,
    "image": st.sampled_from(["trainyard", "a/b:1", "A", "x@sha256:" + "a" * 64, "h:5000/x:y"]),
    "data": _uri | _path,
    "run": _uri | _path | st.just("gs://bucket/runs/{name}-{digest}"),
    "namespace": _name | st.none(),
    "workers": st.integers(0, 1100),
    "resources": st.fixed_dictionaries(
        {},
        optional={
            "cpu": _quantity,
            "memory": _quantity,
            "gpus": st.integers(-1, 9),
            "limits": st.dictionaries(_name, _quantity | st.none(), max_size=2),
        },
    ),
    "train": st.fixed_dictionaries(
        {},
        optional={
            "preset": st.sampled_from([*presets.PRESETS, "none"]),
            "epochs": st.floats(-1, 9) | st.integers(0, 9),
            "model": st.sampled_from(["my.models:net", "nothing"]),
            "seed": st.integers(-1, 5),
            "workers": st.just(3),
        },
    ),
    "environment": st.dictionaries(_text("ABC_9-", 6), st.text(max_size=6) | st.integers()),
    "environment_secrets": st.lists(_name, max_size=2),
    "volumes": st.lists(
        st.fixed_dictionaries(
            {"claim": _name, "mount": _path},
            optional={"read_only": st.booleans(), "sub_path": _path | _text("ab/.", 6)},
        ),
        max_size=3,
    ),
    "groups": st.lists(st.integers(-1, 2**32), max_size=2),
    "files": st.lists(
        st.fixed_dictionaries({"mount": _path}, optional={"config_map": _name, "secret": _name}),
        max_size=2,
    ),
    "shm": _quantity,
    "labels": st.dictionaries(_name, _name, max_size=2),
    "annotations": st.dictionaries(_name, st.text(max_size=6), max_size=2),
    "run_as_user": st.integers(-1, 2**32) | st.sampled_from(["cluster", "root"]),
    "affinity": st.dictionaries(st.sampled_from(["podAffinity", "nodeAffinity"]), st.just({})),
    "topology_spread": st.lists(
        st.just({"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}),
        max_size=1,
    ),
    "runtime_class": _name | st.none(),
    "scheduler_name": _name | st.none(),
    "host_aliases": st.lists(st.just({"ip": "1.2.3.4", "hostnames": ["a"]}), max_size=1),
    "dns_config": st.fixed_dictionaries({}, optional={"searches": st.lists(_name, max_size=2)}),
    "patches": st.lists(
        st.fixed_dictionaries(
            {
                "op": st.sampled_from(["add", "replace", "remove", "move"]),
                "path": st.sampled_from(
                    [
                        "/metadata/labels/a",
                        "/spec/completions",
                        "/spec/template/spec/dnsPolicy",
                        "/spec/template/spec/containers/0",
                        "/a/b",
                        "a",
                    ]
                ),
            },
            optional={"value": st.sampled_from(["None", "Default", 3, None])},
        ),
        max_size=2,
    ),
    "one_node": st.booleans(),
    "node_selector": st.dictionaries(_name, _name, max_size=2),
    "tolerations": st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "key": _name,
                "operator": st.sampled_from(["Exists", "Equal", "Like"]),
                "value": _name,
                "effect": st.sampled_from(["NoSchedule", "NoExecute", "Maybe"]),
                "tolerationSeconds": st.integers(0, 99),
            },
        ),
        max_size=2,
    ),
    "priority_class": _name | st.none(),
    "service_account": _name | st.none(),
    "image_pull_secrets": st.lists(_name, max_size=2),
    "queue": _name | st.none(),
    "deadline": _time,
    "start_deadline": _time,
    "ttl": _time,
    "retries": st.integers(-1, 1001),
    "storage_endpoint": st.sampled_from([None, "http://store:4443", "store", "ftp://x", "http://"]),
}


@st.composite
def run_files(draw: st.DrawFn) -> Any:
    """Draw a run file: mostly a good one with a few random fields, seldom scrap."""
    values: dict[str, Any] = dict(PLAIN)
    for field in draw(st.lists(st.sampled_from(list(FIELDS)), max_size=6, unique=True)):
        values[field] = draw(FIELDS[field])
    if draw(st.integers(0, 9)) == 0:
        values[draw(st.sampled_from([*FIELDS, "nmae", ""]))] = draw(_scrap)
    if draw(st.integers(0, 30)) == 0:
        values.pop(draw(st.sampled_from(list(values))))
    return values
