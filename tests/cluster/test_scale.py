"""A run that changes its size while it trains, in a real cluster."""

import json
import time

import pytest

from tests.support import clusters
from tests.support.clusters import Space, figure
from trainer.runs import reader, run_folder
from trainer.storage.base import Storage, open_storage

# A convex model: what differs by rounding stays so for thousands of steps.
STEPS, CHUNK = 100_000, 200
TRAIN = {
    "preset": "softmax",
    "steps": STEPS,
    "batch_size": 120,
    "chunk_steps": CHUNK,
    "eval_epochs": 0,
}
ELASTIC = {**TRAIN, "min_workers": 2, "resize_after": 10}


def members(folder: Storage) -> list[int]:
    """The ranks that train, once all of the newest attempt do."""
    ranks = reader.ranks(folder)
    if ranks is None or {ranks.ranks[each] for each in ranks.members} != {"training"}:
        return []
    return list(ranks.members)


def losses(folder: Storage) -> dict[int, float]:
    lines = run_folder.read_metrics(folder, STEPS, print)
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_2_workers_then_4_then_3_train_on_the_same_batches_without_losing_a_step(
    space: Space,
) -> None:
    small = {"cpu": "400m", "memory": "1500Mi"}
    path = space.run_file(train=ELASTIC, resources=small)
    assert space.k8s("submit", path).code == 0
    folder = space.stored(path)
    space.until(lambda: members(folder) == [0, 1], 300)
    for size in (4, 3):
        began = time.monotonic()
        done = space.k8s("scale", path, "--workers", str(size))
        assert done.code == 0, done.err
        space.until(lambda: members(folder) == [*range(size)], 300)  # noqa: B023
        figure(
            f"scaled to {size} workers, which trained after", f"{time.monotonic() - began:.0f} s"
        )
        status = space.status(path)
        assert (status["phase"], len(status["ranks"])) == ("Running", size)
    assert "is running already" in space.k8s("submit", path).out
    assert space.k8s("logs", path, "--rank", "2").code == 0
    assert "has ranks 0 to 2" in space.k8s("logs", path, "--rank", "3").err
    done = space.k8s("logs", path, "-f")
    assert done.code == 0, done.out + done.err
    [job] = space.objects("jobs")
    assert (job["spec"]["completions"], job["status"].get("failed", 0)) == (3, 0)

    attempts = reader.attempts(folder)
    sizes = [each.workers for each in attempts]
    assert sizes in ([2, 4, 3], [2, 3, 4, 3])  # a busy node may start pods long one after the other
    steps = [each.last_step for each in attempts]
    assert [each.first_step for each in attempts] == [0, *steps[:-1]]  # none is lost or repeated
    assert all(step % CHUNK == 0 for step in steps)
    result = json.loads(space.k8s("result", path, "-o", "json").out)
    assert [each["workers"] for each in result["sizes"]] == sizes
    assert [each["step"] for each in result["sizes"]] == [0, *steps[:-1]]
    figure(f"last steps with {sizes} workers", ", ".join(map(str, steps)))

    here = "gs://bucket/local/scaled"
    clusters.trained_here({**TRAIN, "workers": 1, "run": here})
    whole = open_storage(here)
    assert losses(folder) == pytest.approx(losses(whole), rel=1e-3)
    accuracy = (run_folder.read_result(whole) or {})["test_accuracy"]
    assert result["test_accuracy"] == pytest.approx(accuracy, abs=5e-4)
    figure("test accuracy, scaled and on one machine", f"{result['test_accuracy']}, {accuracy}")
