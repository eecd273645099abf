"""The run file: what to train, with which resources, and where. Pure except ``read``."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    JsonValue,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from k8s import names, quantity, stores
from k8s import volumes as mounts
from k8s.names import Namespace, ObjectName, matching
from k8s.patches import PREFIX, RESERVED, Patch
from k8s.volumes import Files, Volume
from trainer import presets
from trainer.cluster_spec import MOST_WORKERS
from trainer.common import yaml_text
from trainer.common.text import first_problem, nearest
from trainer.config import Strict, TrainConfig
from trainer.errors import ConfigError
from trainer.runs import run_folder, user_code
from trainer.storage import endpoints

OURS = {
    "code": "code",
    "data": "data",
    "run": "run",
    "workers": "workers",
    "port": "nothing: it is the Job's",
    "ship_logs": "nothing: the Job sets it",
}
# Settings whose values are text, whatever they look like.
TEXTS = ("environment", "labels", "annotations", "node_selector", "resources", "shm")
GANG_PORTS = (2222, 2223, 2224)  # in k8s/manifests/job.yaml
POD_SUFFIX = 6  # characters that the Job adds to a pod's name: "-" and five at random
SMALLEST_MEMORY = 512 * 2**20  # bytes; TensorFlow's import alone takes 500 MB
MOST_OF_A_RESOURCE = 10**15  # more than any node has
USER = 65532  # of the image
# Beginnings of labels and annotations that belong to the Job, its controller or Kueue.
TAKEN = (
    "app.kubernetes.io/",
    "batch.kubernetes.io/",
    "controller-uid",
    "job-name",
    "kueue.x-k8s.io/queue-name",
    "trainyard/",
)

_REFERENCE = (
    r"(?P<name>[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+(?=/))?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_SECRET_NAME = re.compile(
    r"(^|_)(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIALS?|SAS|CONNECTION_?STRING"
    r"|(API|PRIVATE|ACCESS|ACCOUNT|STORAGE|SHARED)_?KEY)(_|$)",
    re.I,
)
# A password in a URL; an access key of AWS; a key, a SAS or its signature of Azure.
_SECRET_VALUE = re.compile(
    r"://[^/@\s]*:[^/@\s]*@|\b(AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\b(AccountKey|SharedAccessKey|SharedAccessSignature|sig)=",
    re.I,
)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parts = re.fullmatch(r"(\d+)([smhd])", value)
    if parts is None:
        raise ValueError("must be seconds or a number with s, m, h or d, such as 90m")
    return int(parts[1]) * _SECONDS[parts[2]]


def _text(value: Any) -> Any:
    # YAML reads 1 and 2.5 as numbers; Kubernetes takes quantities and variables as text.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value).removesuffix(".0") if number else value


def _variable(value: Any) -> Any:
    # YAML reads true as a truth value, and programs read it as text.
    return str(value).lower() if isinstance(value, bool) else _text(value)


def _quantity(value: str) -> str:
    if not 0 < quantity.parse(value) <= MOST_OF_A_RESOURCE:
        raise ValueError("must be a quantity above 0 and up to 1P, such as 2, 500m, 1.5Gi or 1e9")
    return value


def _user(value: Any) -> Any:
    number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value) else value
    if value != "cluster" and not (isinstance(number, int) and 1 <= number < 2**31):
        raise ValueError("must be the number of a user other than root (0), or cluster")
    return number


Duration = Annotated[
    int,
    Field(lt=2**31),  # as Kubernetes counts
    BeforeValidator(_duration),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+[smhd]$"}]}),
]
Quantity = Annotated[
    str,
    BeforeValidator(_text),
    AfterValidator(_quantity),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]
Variable = Annotated[str, BeforeValidator(_variable)]
Image = Annotated[
    str, matching(_REFERENCE, "must be NAME[:TAG][@sha256:DIGEST], in small letters", 512)
]


class Resources(Strict):
    """What each worker gets."""

    cpu: Quantity = Field(
        "1", description="Give each worker this many processor cores, such as 2 or 500m."
    )
    memory: Quantity = Field(
        "2Gi", description="Give each worker this much memory, such as 1.5Gi; at least 512Mi."
    )
    gpus: int = Field(
        0, ge=0, le=64, description="Give each worker this many NVIDIA GPUs; it uses all of them."
    )
    limits: dict[str, Quantity | None] = Field(
        default_factory=dict,
        description="Set other limits than the amounts above, by Kubernetes' names; null removes "
        "one. By default, limits equal the amounts, so that no neighbour can take them.",
    )

    @field_validator("memory")
    @classmethod
    def _memory_suffices(cls, value: str) -> str:
        if quantity.parse(value) < SMALLEST_MEMORY:
            raise ValueError("must be at least 512Mi: TensorFlow alone takes 500 MB")
        return value


class Toleration(Strict):
    """A taint that the pods tolerate, in Kubernetes' own words."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None  # noqa: N815


class RunSpec(Strict):
    """A run: its training settings, and its resources in a cluster."""

    name: str = Field(description="Name the run and all its objects. New settings need a new name.")
    image: Image = Field(description="Run this image of the trainer, best given with its digest.")
    data: str = Field(
        description="Read the dataset, four IDX files or shards, from this folder: gs://..., "
        "s3://..., az://... or a path below a volume's mount."
    )
    run: str = Field(
        description="Write the run to this folder: gs://..., s3://..., az://... or a path "
        "below a volume's mount; {name}, {preset}, {digest} are filled in."
    )
    namespace: Namespace | None = Field(
        None,
        description="Create the objects in this namespace; default: that of the kubectl context.",
    )
    workers: int = Field(
        1, ge=1, le=MOST_WORKERS, description="Start this many workers, each in a pod of its own."
    )
    resources: Resources = Field(
        default_factory=lambda: Resources.model_validate({}),
        description="Give each worker these resources.",
    )
    train: dict[str, Any] = Field(
        default_factory=dict,
        description="Train with these settings of python -m trainer train; the log is always JSON.",
    )
    code: str | None = Field(
        None,
        description="Import train.model from this file or folder, relative to the run file; "
        "default: the module of that name beside it. The run keeps a copy.",
    )
    environment: dict[str, Variable] = Field(
        default_factory=dict, description="Set these environment variables, none of them secret."
    )
    environment_secrets: list[ObjectName] = Field(
        default_factory=list, description="Set the keys of these Secrets as environment variables."
    )
    volumes: list[Volume] = Field(
        default_factory=list, description="Mount these PersistentVolumeClaims in every pod."
    )
    groups: list[int] = Field(
        default_factory=list,
        description="Give the pods these supplemental groups, so that they may write to volumes.",
    )
    one_node: bool = Field(
        False,
        description="Run all workers on one node, as they must to share a ReadWriteOnce claim.",
    )
    files: list[Files] = Field(
        default_factory=list,
        description="Mount these ConfigMaps and Secrets, such as a certificate authority's, in "
        "every pod.",
    )
    shm: Quantity | None = Field(
        None,
        description="Make /dev/shm this large, of the pod's memory; default: the node's, 64 MiB.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="Give all objects and pods these labels, too."
    )
    annotations: dict[str, str] = Field(
        default_factory=dict, description="Give all objects and pods these annotations, too."
    )
    run_as_user: Annotated[
        Annotated[int, Field(ge=1, lt=2**31)] | Literal["cluster"], BeforeValidator(_user)
    ] = Field(
        USER,
        description="Run the pods as this user and group, or let the cluster choose (cluster), as "
        "OpenShift does for each namespace.",
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="Run only on nodes with these labels."
    )
    affinity: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="Place the pods by this affinity, in Kubernetes' form."
    )
    topology_spread: list[dict[str, JsonValue]] = Field(
        default_factory=list,
        description="Spread the pods by these constraints, in Kubernetes' form; the labelSelector "
        "is the run's unless given.",
    )
    tolerations: list[Toleration] = Field(
        default_factory=list, description="Run on nodes with these taints, too."
    )
    priority_class: ObjectName | None = Field(None, description="Give the pods this PriorityClass.")
    runtime_class: ObjectName | None = Field(None, description="Give the pods this RuntimeClass.")
    scheduler_name: ObjectName | None = Field(
        None, description="Let this scheduler place the pods."
    )
    host_aliases: list[dict[str, JsonValue]] = Field(
        default_factory=list,
        description="Add these lines to /etc/hosts: {ip: ADDRESS, hostnames: [NAME]}.",
    )
    dns_config: dict[str, JsonValue] = Field(
        default_factory=dict, description="Give the pods this dnsConfig, in Kubernetes' form."
    )
    service_account: ObjectName | None = Field(
        None,
        description="Run the pods as this account, by Workload Identity; its token is not mounted.",
    )
    image_pull_secrets: list[ObjectName] = Field(
        default_factory=list, description="Pull the image with these Secrets."
    )
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="When a node pulls the image."
    )
    queue: ObjectName | None = Field(None, description="Wait in this LocalQueue of Kueue.")
    deadline: Duration = Field(
        86400, ge=1, description="Fail the run after this time; seconds, or 90m, 8h."
    )
    start_deadline: Duration = Field(
        600,
        ge=1,
        description="Let submit --wait give up if the trainer has not reported after this time.",
    )
    ttl: Duration = Field(
        86400, ge=60, description="Keep the finished Job this long; seconds, or 90m, 8h."
    )
    retries: int = Field(
        3,
        ge=0,
        le=1000,
        description="Replace each rank's pod at most this many times; restarts in a pod do not "
        "count.",
    )
    storage_endpoint: str | None = Field(
        None, description="Reach the store at this URL if it is not the cloud's own."
    )
    patches: list[Patch] = Field(
        default_factory=list,
        description="Change the objects with these JSON Patch steps, for what has no setting.",
    )

    _archive: user_code.Archive | None = PrivateAttr(None)
    _sweep: str | None = PrivateAttr(None)

    @property
    def archive(self) -> user_code.Archive | None:
        """The user's code, where the run file was read."""
        return self._archive

    def with_code(self, archive: user_code.Archive) -> "RunSpec":
        """Return the run with this code of the user's."""
        spec = self.model_copy(update={"code": archive.reference})
        spec._archive = archive
        return spec

    @property
    def sweep(self) -> str | None:
        """Name of the sweep that the run is a part of."""
        return self._sweep

    def within(self, sweep: str) -> "RunSpec":
        """Return the run as a part of this sweep."""
        spec = self.model_copy()
        spec._sweep = sweep
        return spec

    @field_validator("name")
    @classmethod
    def _name_starts_with_a_letter(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", value):  # a Service's name, RFC 1035
            raise ValueError("must be a-z, 0-9 and -, from a letter to a letter or digit")
        return value

    @field_validator("data", "run")
    @classmethod
    def _is_a_folder_of_pods(cls, value: str) -> str:
        if value.startswith("/"):  # below a mount, see _check_volumes
            return mounts.clean(value)
        if stores.of(value) is None:
            raise ValueError(stores.why_none(value))
        return value.rstrip("/")

    @field_validator("groups")
    @classmethod
    def _groups_are_numbers(cls, values: list[int]) -> list[int]:
        if not all(1 <= value < 2**31 for value in values):
            raise ValueError("must be numbers of groups from 1 on; 0 is root's")
        return values

    @field_validator("environment")
    @classmethod
    def _environment_is_ours_to_set(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} must be a variable's name: letters, digits and _")
            if name in RESERVED or name.startswith(PREFIX):
                raise ValueError(f"{name} is set by the Job; leave it out")
            if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value):
                raise ValueError(
                    f"{name} looks like a secret, which a manifest is no place for; put it into a "
                    "Secret and name that under environment_secrets"
                )
        return values

    @field_validator("node_selector", "labels")
    @classmethod
    def _labels_are_labels(cls, values: dict[str, str]) -> dict[str, str]:
        for key, value in values.items():
            if not names.is_key(key):
                raise ValueError(f"{key!r} {names.KEY}")
            if not names.is_value(value):
                raise ValueError(f"{key!r}: {value!r} {names.VALUE}")
        return values

    @field_validator("annotations")
    @classmethod
    def _annotations_are_annotations(cls, values: dict[str, str]) -> dict[str, str]:
        for key, value in values.items():
            if not names.is_key(key):
                raise ValueError(f"{key!r} {names.KEY}")
            if _SECRET_VALUE.search(value):
                raise ValueError(f"{key} looks like a secret, which a manifest is no place for")
        return values

    @field_validator("patches")
    @classmethod
    def _patches_hold_no_secret(cls, values: list[Patch]) -> list[Patch]:
        if _SECRET_VALUE.search(json.dumps([each.value for each in values])):
            raise ValueError("hold what looks like a secret, which a manifest is no place for")
        return values

    @field_validator("labels", "annotations")
    @classmethod
    def _are_free(cls, values: dict[str, str]) -> dict[str, str]:
        for key in values:
            if key.startswith(TAKEN):
                raise ValueError(f"{key} is set by the Job, its controller or queue; leave it out")
        return values

    @field_validator("storage_endpoint")
    @classmethod
    def _endpoint_is_a_url(cls, value: str | None) -> str | None:
        if value is not None and not endpoints.is_url(value):
            raise ValueError("must be http://HOST:PORT")
        return value

    @property
    def config(self) -> TrainConfig:
        """The settings that the trainer gets; checked when the run file was read."""
        placed = {"workers": self.workers, "data": self.data, "ship_logs": True}
        placed["run"] = self.run.replace("{name}", self.name)
        placed |= {"code": self.code} if self.code else {}
        placed["log_format"] = "json"  # which status and diagnosis read
        config = presets.configure(self.train, placed)
        return config.model_copy(update={"run": run_folder.uri(config)})

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of the pods that this file sets, the store's among them."""
        folders = (self.data, self.run)
        return stores.endpoint_variables(self.storage_endpoint, folders) | self.environment

    @property
    def run_uri(self) -> str:
        """URI of the run's folder, with every name filled in."""
        return self.config.run

    def pinned(self) -> str | None:
        """What pins the image: its digest, a tag other than latest, or nothing."""
        match = re.fullmatch(_REFERENCE, self.image)
        assert match
        tag = match["tag"]
        return match["digest"] or (tag if tag not in (None, "latest") else None)

    def canonical(self) -> str:
        """One line of JSON that two run files share exactly if they mean the same run."""
        # The namespace is in the objects themselves, or in the context.
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={"namespace"})
        return json.dumps(values, sort_keys=True, separators=(",", ":"))


def parse(values: Any, where: str, *, namespace: str | None = None) -> RunSpec:
    """Check a run file's values; ``namespace`` wins over that of the file.

    Raises:
        ConfigError: with the file, which ``where`` names, the field, the value, the rule and the
            remedy.
    """
    try:
        values = yaml_text.mapping(values, "name: mnist-cnn")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if namespace is not None:
        values = {**values, "namespace": namespace}
    try:
        spec = RunSpec.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_problem(error)}") from None
    for field in spec.train.keys() & OURS.keys():
        raise ConfigError(
            f"{where}: train.{field}: does not belong under train; give {OURS[field]} instead"
        )
    try:
        config = spec.config
    except ConfigError as error:
        raise ConfigError(f"{where}: train: {error}") from None
    if "{" in config.run:
        raise ConfigError(
            f"{where}: run: {spec.run!r}: only {{name}}, {{preset}} and {{digest}} are filled in"
        )
    if config.metrics_port in GANG_PORTS:
        raise ConfigError(
            f"{where}: train.metrics_port: {config.metrics_port}: is a port of the workers; give "
            "another, such as 9400"
        )
    _check_names(spec, where)
    _check_volumes(spec, where)
    secrets = bool(spec.environment_secrets)
    if fault := stores.fault(spec.variables, (spec.data, spec.run), secrets=secrets):
        raise ConfigError(f"{where}: {fault}")
    return spec


def _problem(error: ValidationError) -> str:
    problem = first_problem(error)
    path = problem.path
    field, known = ".".join(path), _fields(path[:-1])
    if problem.kind == "extra_forbidden":
        hint = nearest(path[-1], known)
        if len(path) == 1 and path[0] in TrainConfig.model_fields:
            hint = "; settings of the training go under train"
        return f"unknown setting {field!r}{hint} (known: {', '.join(known)})"
    needed = path[-1] in known and known[path[-1]].is_required()
    if problem.kind == "missing" or (needed and problem.value is None):
        return f"{field} is missing: {RunSpec.model_fields[path[0]].description}"
    meaning = known[path[-1]].description if path[-1] in known else None
    explained = f" ({meaning})" if meaning else ""
    if problem.value is None:
        return f"{field}: has no value; give it one, or leave it out{explained}"
    # A value may be a mistyped secret, or hold one.
    hidden = path[0] in ("environment", "annotations", "storage_endpoint")
    hidden = hidden or bool(_SECRET_VALUE.search(str(problem.value)))
    value = "..." if hidden else problem.value
    return f"{field}: {str(value)[:60]!r}: {problem.rule}{explained}"


def _fields(path: list[str]) -> dict[str, Any]:
    models: dict[str, type[BaseModel]] = {"resources": Resources, "tolerations": Toleration}
    models |= {"volumes": Volume, "files": Files, "patches": Patch}
    return dict(models.get(path[0] if path else "", RunSpec).model_fields)


def _check_names(spec: RunSpec, where: str) -> None:
    """Check the longest names that follow from the run's.

    Raises:
        ConfigError: a pod's name at the largest index is too long.
    """
    longest = f"{spec.name}-{spec.workers - 1}"
    length = len(longest) + POD_SUFFIX
    if length > names.LONGEST:
        raise ConfigError(
            f"{where}: name: {spec.name!r}: rank {spec.workers - 1}'s pod would be called "
            f"{longest}-xxxxx, {length} characters, and {names.LONGEST} are allowed; "
            f"take away {length - names.LONGEST}"
        )


def _check_volumes(spec: RunSpec, where: str) -> None:
    """Check that folders of pods lie below mounts, and which nodes may have the pods.

    Raises:
        ConfigError: one does not, a mount is there twice, or so is a rule for nodes.
    """
    if mount := mounts.twice([*spec.volumes, *spec.files]):
        raise ConfigError(f"{where}: volumes: {mount!r}: is mounted twice; give each its own mount")
    if spec.one_node and "podAffinity" in spec.affinity:
        raise ConfigError(f"{where}: one_node: is a podAffinity, and affinity has one; keep one")
    for field, path in (("data", spec.data), ("run", spec.run_uri)):
        if path.startswith("/"):
            fault = mounts.fault(path, spec.volumes, written=field == "run")
            if fault:
                raise ConfigError(f"{where}: {field}: {path!r}: {fault}")


def read(path: str, *, namespace: str | None = None) -> RunSpec:
    """Read and check a run file.

    Raises:
        ConfigError: it is missing, no YAML, or holds something that is not allowed; or the code
            that it names cannot be packed.
    """
    values = yaml_text.read(path, "run file", texts=TEXTS)
    spec = parse(values, path, namespace=namespace)
    model = spec.config.model
    try:
        archive = user_code.find(model, spec.code, Path(path).parent) if model else None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return spec.with_code(archive) if archive else spec


def schema() -> dict[str, Any]:
    """Return the JSON Schema of run files, for editors."""
    values = RunSpec.model_json_schema()
    settings = TrainConfig.model_json_schema()["properties"]
    train = {name: value for name, value in settings.items() if name not in OURS}
    values["properties"]["train"] |= {"properties": train, "additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **values}
