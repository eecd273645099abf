"""Volumes of a run file: claims that every pod mounts, and the folders below them. Pure."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field, field_validator, model_validator

from k8s.names import ObjectName
from trainer.config import Strict
from trainer.storage.base import name_fault

Object = dict[str, Any]

# Folders of the image, and of every Linux system.
TAKEN = re.compile(r"/(app|bin|boot|dev|etc|lib\w*|opt|proc|root|run|sbin|sys|tmp|usr|)(/|$)")


class Mount(Strict):
    """What is mounted in every pod."""

    mount: str = Field(description="Mount it at this absolute path, such as /data.")

    @field_validator("mount")
    @classmethod
    def _mount_is_free(cls, value: str) -> str:
        value = clean(value)
        if ":" in value:
            raise ValueError("must hold no colon")
        if TAKEN.match(value):
            raise ValueError("must be a path that the image does not use, such as /data or /mnt/a")
        return value


class Volume(Mount):
    """A PersistentVolumeClaim of the run's namespace, or a folder of it, in every pod."""

    claim: ObjectName = Field(
        description="Mount this PersistentVolumeClaim of the run's namespace."
    )
    read_only: bool = Field(False, description="Mount it read-only.")
    sub_path: str | None = Field(
        None, description="Mount this folder of the claim instead of all of it."
    )

    @field_validator("sub_path")
    @classmethod
    def _sub_path_is_inside(cls, value: str | None) -> str | None:
        if value is not None and name_fault(value):
            raise ValueError("must be a relative path such as team/mnist, without '..'")
        return value


class Files(Mount):
    """The files of a ConfigMap or a Secret of the run's namespace, in every pod."""

    config_map: ObjectName | None = Field(
        None, description="Mount this ConfigMap, one file per key."
    )
    secret: ObjectName | None = Field(None, description="Mount this Secret, one file per key.")

    @model_validator(mode="after")
    def _is_one(self) -> "Files":
        if (self.config_map is None) == (self.secret is None):
            raise ValueError("must name a config_map or a secret, one of them")
        return self


def clean(path: str) -> str:
    """Return an absolute path without a trailing slash.

    Raises:
        ValueError: it is relative, or has parts that lead elsewhere.
    """
    parts = path.rstrip("/").split("/")[1:]
    faulty = parts and name_fault("/".join(parts))
    if not path.startswith("/") or faulty:
        raise ValueError("must be an absolute path without '.', '..', '//' and control characters")
    return str(PurePosixPath(path))


def holding(path: str, volumes: Sequence[Volume]) -> Volume | None:
    """Return the volume whose mount a path lies in, the innermost of several."""
    found = [each for each in volumes if PurePosixPath(path).is_relative_to(each.mount)]
    return max(found, key=lambda each: len(each.mount), default=None)


def fault(path: str, volumes: Sequence[Volume], *, written: bool) -> str | None:
    """Return what keeps pods from using a path as a folder, None if nothing does."""
    volume = holding(path, volumes)
    if volume is None:
        known = ", ".join(each.mount for each in volumes)
        return f"must lie below the mount of a volume ({known or 'volumes has none'})"
    if written and volume.read_only:
        return f"claim {volume.claim} at {volume.mount} is read_only, and a run writes to it"
    return None


def twice(volumes: Sequence[Mount]) -> str | None:
    """Return a mount that two volumes have, None if there is none."""
    mounts = [each.mount for each in volumes]
    return next((mount for mount in mounts if mounts.count(mount) > 1), None)


def written(claim: str, volumes: Sequence[Volume]) -> bool:
    """Whether pods may write to a claim."""
    return any(not each.read_only for each in volumes if each.claim == claim)


def fill_pod(
    pod: Object, volumes: Sequence[Volume], groups: Sequence[int], group: int | None
) -> None:
    """Add the volumes to a pod and its container, and what lets its user write there.

    Args:
        pod: a PodSpec.
        volumes: of the run.
        groups: supplemental groups of the pod's user.
        group: of the pod's user; None where the cluster chooses it, and with it the volumes' group.
    """
    claims = list(dict.fromkeys(each.claim for each in volumes))
    for number, claim in enumerate(claims):
        source: Object = {"claimName": claim}
        if not written(claim, volumes):  # as a disk needs that other nodes have attached
            source["readOnly"] = True
        pod["volumes"].append({"name": f"claim-{number}", "persistentVolumeClaim": source})
    for each in volumes:
        mount: Object = {"name": f"claim-{claims.index(each.claim)}", "mountPath": each.mount}
        mount |= {"readOnly": True} if each.read_only else {}
        mount |= {"subPath": each.sub_path} if each.sub_path else {}
        pod["containers"][0]["volumeMounts"].append(mount)
    if group is not None and any(written(claim, volumes) for claim in claims):
        # Disks are made this group's at their first mount; NFS and hostPath stay as they are.
        pod["securityContext"]["fsGroup"] = group
        pod["securityContext"]["fsGroupChangePolicy"] = "OnRootMismatch"
    if groups:
        pod["securityContext"]["supplementalGroups"] = list(groups)


def add_files(pod: Object, files: Sequence[Files]) -> None:
    """Add ConfigMaps and Secrets to a pod and its container, to be read only."""
    for number, each in enumerate(files):
        name = f"files-{number}"
        source = (
            {"configMap": {"name": each.config_map}}
            if each.config_map
            else {"secret": {"secretName": each.secret}}
        )
        _mount(pod, {"name": name, **source}, {"mountPath": each.mount, "readOnly": True})


def add_memory(pod: Object, size: str) -> None:
    """Make /dev/shm of a pod's container so large."""
    source = {"emptyDir": {"medium": "Memory", "sizeLimit": size}}
    _mount(pod, {"name": "shm", **source}, {"mountPath": "/dev/shm"})  # noqa: S108 - the pod's own


def _mount(pod: Object, volume: Object, mount: Object) -> None:
    pod["volumes"].append(volume)
    pod["containers"][0]["volumeMounts"].append({"name": volume["name"], **mount})
