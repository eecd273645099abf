"""What makes the objects in the API server of tests live."""

import json
import time
from typing import Any

from tests.support.apiserver import ApiServer

PLAN = "cnn: 200 steps in 1.20 epochs of 500 images (3.9 steps an epoch)"
WORDS = "test accuracy 99.22%  loss 0.1000  200 steps in 7.0 s (14,000 images/s)"
RESULT = json.dumps({"event": "finished", "message": WORDS, "test_accuracy": 0.9922, "steps": 200})


class Controller:
    """What the Job controller, the garbage collector and kubelets do, as far as tests need it."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        api.react = self.react

    def react(self, verb: str, item: dict[str, Any]) -> None:
        if item["kind"] == "Job" and verb in ("create", "patch"):
            there = self.pods(item)
            if not item["spec"].get("suspend") and not there:
                for rank in range(item["spec"]["completions"]):
                    self.start(item, rank)
            if item["spec"].get("suspend"):
                for pod in there:
                    del self.api.objects[
                        "Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]
                    ]

    def pods(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            pod
            for (kind, _, _), pod in list(self.api.objects.items())
            if kind == "Pod"
            and pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"]
            == job["metadata"]["uid"]
        ]

    def start(self, job: dict[str, Any], rank: int, state: dict[str, Any] | None = None) -> str:
        name = job["metadata"]["name"]
        pod = f"{name}-{rank}-{len(self.pods(job)):05}"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.api.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": pod,
                    "namespace": job["metadata"]["namespace"],
                    "labels": {
                        **job["spec"]["template"]["metadata"]["labels"],
                        "batch.kubernetes.io/controller-uid": job["metadata"]["uid"],
                        "batch.kubernetes.io/job-completion-index": str(rank),
                    },
                },
                "spec": {**job["spec"]["template"]["spec"], "nodeName": "node0"},
                "status": {
                    "phase": "Running",
                    "containerStatuses": [
                        {"name": "trainer", "state": state or {"running": {"startedAt": now}}}
                    ],
                },
            }
        )
        return pod

    def report(self, pod: str) -> None:
        """Log what the trainer's rank 0 begins with."""
        self.api.push(pod, json.dumps({"message": PLAN, "event": "started", "steps": 200}))

    def image(self) -> str:
        return str(self.job()["spec"]["template"]["spec"]["containers"][0]["image"])

    def job(self) -> dict[str, Any]:
        [job] = [o for (kind, _, _), o in self.api.objects.items() if kind == "Job"]
        return job

    def end(
        self, condition: str, reason: str = "", codes: dict[int, tuple[int, str]] | None = None
    ) -> None:
        """End the run; ``codes`` by rank, with the termination message.

        A rank without one ends with 0, and rank 0 leaves its result, as the trainer does.
        """
        job = self.job()
        for pod in self.pods(job):
            rank = int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])
            code, message = (codes or {}).get(rank, (0, "" if rank else RESULT))
            pod["status"]["phase"] = "Failed" if code else "Succeeded"
            ended = {
                "exitCode": code,
                "message": message,
                "reason": "Error" if code else "Completed",
            }
            ended["finishedAt"] = f"2026-01-01T00:00:0{rank}Z"
            pod["status"]["containerStatuses"][0]["state"] = {"terminated": ended}
            self.api.end(pod["metadata"]["name"])
        job["status"] = {
            "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:01:05Z",
            "conditions": [
                {
                    "type": condition,
                    "status": "True",
                    "reason": reason,
                    "lastTransitionTime": "2026-01-01T00:01:05Z",
                }
            ],
        }
