"""The Terraform of infra/gcp: parsed, and the promises about the cloud kept.

What the provider would say to it needs the provider: see infra/README.md.
"""

import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from k8s.run_file import RunSpec

GCP = Path(__file__).parents[2] / "infra/gcp"
FILES = sorted(GCP.glob("*.tf"))

Object = dict[str, Any]


def plain(value: Any) -> Any:
    """Return parsed HCL without the quotes and marks that only a printer needs."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not key.startswith("__")}
        return {key.strip('"'): plain(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


def blocks(kind: str) -> dict[str, Object]:
    """Return all blocks of a kind, by their labels joined by a dot."""
    found: dict[str, Object] = {}
    for path in FILES:
        for block in plain(hcl2.loads(path.read_text())).get(kind, []):
            for name, body in block.items():
                nested = body if kind in ("resource", "data") else {"": body}
                found |= {f"{name}.{key}".rstrip("."): inner for key, inner in nested.items()}
    return found


RESOURCES = blocks("resource")


def test_there_is_a_bucket_that_only_named_identities_use() -> None:
    bucket = RESOURCES["google_storage_bucket.this"]
    assert bucket["uniform_bucket_level_access"] is True
    assert bucket["public_access_prevention"] == "enforced"
    assert bucket["versioning"] == [{"enabled": False}]
    assert bucket["force_destroy"] is False
    assert bucket["lifecycle_rule"]
    grants = {name: body for name, body in RESOURCES.items() if "_iam_" in name}
    assert {body["role"] for name, body in grants.items() if "bucket" in name} == {
        "roles/storage.objectUser"
    }
    assert all("allUsers" not in str(body) for body in grants.values())
    trainer = grants["google_storage_bucket_iam_member.trainer"]["member"]
    assert "principal://iam.googleapis.com/projects/" in trainer
    assert "subject/ns/${var.namespace}/sa/${var.service_account}" in trainer


def test_no_key_exists_and_no_role_is_broad() -> None:
    text = "".join(path.read_text() for path in FILES)
    assert "google_service_account_key" not in text
    assert not re.search(r"roles/(owner|editor|viewer)|[aA]dmin\"", text)


def test_the_cluster_enforces_policies_and_gives_pods_identities() -> None:
    cluster = RESOURCES["google_container_cluster.this"]
    assert cluster["datapath_provider"] == "ADVANCED_DATAPATH"
    assert cluster["enable_shielded_nodes"] is True
    assert cluster["workload_identity_config"][0]["workload_pool"] == (
        "${var.project_id}.svc.id.goog"
    )
    assert cluster["private_cluster_config"][0]["enable_private_nodes"] is True
    (node,) = RESOURCES["google_container_node_pool.this"]["node_config"]
    assert node["workload_metadata_config"] == [{"mode": "GKE_METADATA"}]


def test_identities_are_those_of_the_manifests() -> None:
    variables = blocks("variable")
    account = yaml.safe_load((GCP.parent / "cluster/trainer.yaml").read_text())["metadata"]
    assert variables["namespace"]["default"] == account["namespace"]
    assert variables["service_account"]["default"] == account["name"]


@pytest.mark.parametrize("kind", ["variable", "output"])
def test_everything_that_people_meet_is_described(kind: str) -> None:
    assert len(blocks(kind)) > 3
    for name, body in blocks(kind).items():
        assert body["description"].endswith("."), name


def test_the_example_sets_variables_that_exist() -> None:
    text = (GCP / "terraform.tfvars.example").read_text()
    names = set(re.findall(r"^(?:# )?(\w+) +=", text, re.MULTILINE))
    assert len(names) > 5
    assert names <= blocks("variable").keys()
    assert hcl2.loads(re.sub(r"^# (?=\w+ +=)", "", text, flags=re.MULTILINE))


def test_what_is_printed_for_run_files_is_what_they_know() -> None:
    for name in ("run_file", "run_file_gpu"):
        body = re.search(rf'output "{name}" {{.*?yamlencode\({{(.*?)\n  }}\)', read_outputs(), re.S)
        assert body is not None
        keys = re.findall(r"^    (\w+) +=", body[1], re.MULTILINE)
        assert len(keys) > 2
        assert set(keys) <= RunSpec.model_fields.keys()


def read_outputs() -> str:
    return (GCP / "outputs.tf").read_text()


def test_versions_are_bounded() -> None:
    versions = (GCP / "versions.tf").read_text()
    assert re.search(r'required_version = ">= \d', versions)
    assert re.search(r'version = ">= [\d.]+, < [\d.]+"', versions)
