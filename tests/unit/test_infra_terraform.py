"""The Terraform of infra/gcp and infra/aws: parsed, and the promises about each cloud kept.

What the providers would say to it needs the providers: see infra/README.md.
"""

import functools
import re
from typing import Any

import hcl2
import pytest
import yaml

from k8s.run_file import RunSpec
from tests.support.processes import ROOT

INFRA = ROOT / "infra"
CLOUDS = ("gcp", "aws")

Object = dict[str, Any]


def plain(value: Any) -> Any:
    """Return parsed HCL without the quotes and marks that only a printer needs."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not key.startswith("__")}
        return {key.strip('"'): plain(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


@functools.cache
def blocks(cloud: str, kind: str) -> dict[str, Object]:
    """Return all blocks of a kind, by their labels joined by a dot."""
    found: dict[str, Object] = {}
    for path in sorted((INFRA / cloud).glob("*.tf")):
        for block in plain(hcl2.loads(path.read_text())).get(kind, []):
            for name, body in block.items():
                nested = body if kind in ("resource", "data") else {"": body}
                found |= {f"{name}.{key}".rstrip("."): inner for key, inner in nested.items()}
    return found


def text_of(cloud: str) -> str:
    return "".join(path.read_text() for path in sorted((INFRA / cloud).glob("*.tf")))


def gcp(name: str) -> Object:
    return blocks("gcp", "resource")[name]


def aws(name: str) -> Object:
    return blocks("aws", "resource")[name]


def policy(name: str) -> list[Object]:
    """Return the statements of an AWS policy."""
    statements: list[Object] = blocks("aws", "data")[f"aws_iam_policy_document.{name}"]["statement"]
    return statements


def test_googles_bucket_is_used_by_named_identities_only() -> None:
    bucket = gcp("google_storage_bucket.this")
    assert bucket["uniform_bucket_level_access"] is True
    assert bucket["public_access_prevention"] == "enforced"
    assert bucket["versioning"] == [{"enabled": False}]
    assert bucket["force_destroy"] is False
    assert bucket["lifecycle_rule"]
    grants = {name: body for name, body in blocks("gcp", "resource").items() if "_iam_" in name}
    assert {body["role"] for name, body in grants.items() if "bucket" in name} == {
        "roles/storage.objectUser"
    }
    assert all("allUsers" not in str(body) for body in grants.values())
    trainer = grants["google_storage_bucket_iam_member.trainer"]["member"]
    assert "principal://iam.googleapis.com/projects/" in trainer
    assert "subject/ns/${var.namespace}/sa/${var.service_account}" in trainer


def test_the_bucket_on_aws_is_private_encrypted_on_the_way_and_never_emptied() -> None:
    assert aws("aws_s3_bucket.this")["force_destroy"] is False
    block = aws("aws_s3_bucket_public_access_block.this")
    assert [value for value in block.values() if isinstance(value, bool)] == [True] * 4
    (owner,) = aws("aws_s3_bucket_ownership_controls.this")["rule"]
    assert owner == {"object_ownership": "BucketOwnerEnforced"}
    (denied,) = policy("bucket")
    assert (denied["effect"], denied["actions"]) == ("Deny", ["s3:*"])
    assert denied["condition"][0]["variable"] == "aws:SecureTransport"
    rule = aws("aws_s3_bucket_lifecycle_configuration.this")["rule"][0]
    assert rule["abort_incomplete_multipart_upload"] == [{"days_after_initiation": 1}]
    assert rule["noncurrent_version_expiration"]


def test_pods_on_aws_may_do_what_the_trainer_does_and_nothing_else() -> None:
    bucket = "${aws_s3_bucket.this.arn}"
    rights = {
        action: set(statement["resources"])
        for statement in policy("trainer")
        for action in statement["actions"]
    }
    assert rights == {
        "s3:ListBucket": {bucket},
        "s3:GetObject": {f"{bucket}/data/*", f"{bucket}/runs/*"},
        "s3:PutObject": {f"{bucket}/runs/*"},
        "s3:DeleteObject": {f"{bucket}/runs/*"},
    }
    # With a condition S3 answers 403, not 404, to a read of what is not there.
    assert not any("condition" in statement for statement in policy("trainer"))


def test_only_the_runs_pods_get_the_role_on_aws() -> None:
    (trust,) = policy("trainer_trust")
    assert trust["principals"] == [{"type": "Service", "identifiers": ["pods.eks.amazonaws.com"]}]
    (condition,) = trust["dynamic"]
    assert condition["condition"]["for_each"] == {
        "kubernetes-namespace": "${var.namespace}",
        "kubernetes-service-account": "${var.service_account}",
        "eks-cluster-name": "${local.cluster}",
    }
    assert aws("aws_eks_pod_identity_association.trainer")["role_arn"] == (
        "${aws_iam_role.trainer.arn}"
    )
    # Nodes have a role of their own, without the bucket.
    assert "trainer" not in str(aws("aws_iam_role_policy_attachment.node"))


def test_submitters_on_aws_are_the_group_of_the_role() -> None:
    (group,) = aws("aws_eks_access_entry.submitter")["kubernetes_groups"]
    assert group.strip('"') in (INFRA / "cluster/submitter.yaml").read_text()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_key_exists_and_no_role_is_broad(cloud: str) -> None:
    text = text_of(cloud)
    assert not re.search(r"google_service_account_key|aws_iam_access_key|aws_iam_user\b", text)
    assert not re.search(r"roles/(owner|editor|viewer)|[aA]dmin\"|AdministratorAccess", text)
    for name, body in blocks(cloud, "data").items():
        for statement in body.get("statement", []):
            if statement.get("effect") != "Deny":
                assert not any("*" in action for action in statement["actions"]), name
                broad = statement.get("resources") == ["*"]
                assert not broad or statement["actions"] == ["ecr:GetAuthorizationToken"], name


def test_googles_cluster_enforces_policies_and_gives_pods_identities() -> None:
    cluster = gcp("google_container_cluster.this")
    assert cluster["datapath_provider"] == "ADVANCED_DATAPATH"
    assert cluster["enable_shielded_nodes"] is True
    assert cluster["workload_identity_config"][0]["workload_pool"] == (
        "${var.project_id}.svc.id.goog"
    )
    assert cluster["private_cluster_config"][0]["enable_private_nodes"] is True
    (node,) = gcp("google_container_node_pool.this")["node_config"]
    assert node["workload_metadata_config"] == [{"mode": "GKE_METADATA"}]


def test_the_cluster_on_aws_is_optional_and_its_nodes_are_private() -> None:
    network = ("vpc", "subnet", "nat_gateway", "eks_cluster", "vpc_endpoint")
    for name, body in blocks("aws", "resource").items():
        if name.split(".")[0].removeprefix("aws_") in network:
            assert "local.create" in body["count"], name
    (nodes,) = aws("aws_eks_cluster.this")["vpc_config"]
    assert nodes["subnet_ids"] == "${aws_subnet.private[*].id}"
    assert not any("map_public_ip_on_launch" in body for body in blocks("aws", "resource").values())
    (config,) = yaml.safe_load_all((INFRA / "aws/network-policy.yaml").read_text())
    assert config["metadata"] == {"name": "amazon-vpc-cni", "namespace": "kube-system"}
    assert config["data"] == {"enable-network-policy-controller": "true"}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_identities_are_those_of_the_manifests(cloud: str) -> None:
    variables = blocks(cloud, "variable")
    account = yaml.safe_load((INFRA / "cluster/trainer.yaml").read_text())["metadata"]
    assert variables["namespace"]["default"] == account["namespace"]
    assert variables["service_account"]["default"] == account["name"]


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("kind", ["variable", "output"])
def test_everything_that_people_meet_is_described(cloud: str, kind: str) -> None:
    assert len(blocks(cloud, kind)) > 3
    for name, body in blocks(cloud, kind).items():
        assert body["description"].endswith("."), name


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_example_sets_variables_that_exist(cloud: str) -> None:
    text = (INFRA / cloud / "terraform.tfvars.example").read_text()
    names = set(re.findall(r"^(?:# )?(\w+) +=", text, re.MULTILINE))
    assert len(names) > 5
    assert names <= blocks(cloud, "variable").keys()
    assert hcl2.loads(re.sub(r"^# (?=\w+ +=)", "", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("cloud", "name"), [("gcp", "run_file"), ("gcp", "run_file_gpu"), ("aws", "run_file")]
)
def test_what_is_printed_for_run_files_is_what_they_know(cloud: str, name: str) -> None:
    outputs = (INFRA / cloud / "outputs.tf").read_text()
    body = re.search(rf'output "{name}" {{.*?yamlencode\((.*?)\n  }}?\)', outputs, re.S)
    assert body is not None
    keys = re.findall(r"^ {4,6}(\w+) += ", body[1], re.MULTILINE)
    assert len(keys) > 2
    assert set(keys) <= RunSpec.model_fields.keys()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_versions_are_bounded(cloud: str) -> None:
    versions = (INFRA / cloud / "versions.tf").read_text()
    assert re.search(r'required_version = ">= \d', versions)
    assert re.search(r'version = ">= [\d.]+, < [\d.]+"', versions)
