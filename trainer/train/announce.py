"""The first lines that a run prints: what it trains, on what, and from where."""

import contextlib
import os
from typing import Any

import numpy as np

from trainer.common import cpu
from trainer.common.text import plural
from trainer.data import dataset
from trainer.errors import UserError
from trainer.runs import run_folder
from trainer.train import devices
from trainer.train.loop import Loop
from trainer.train.run import Run


def announce(run: Run, loop: Loop, step: int, started: float, *, first: bool) -> None:
    """Announce the run in a command's first attempt, and print at which step it resumes.

    Rank 0 also stores what it announces, and what Keras says of the model. A run can do without
    both, so an error is left to what is stored next. This attempt starts at ``step``; the command
    ``started`` at seconds since the epoch, and this is its ``first`` attempt or not.
    """
    if first:
        plan = _plan(run, loop)
        _announce_plan(run, loop, plan)
        _warn_of_classes(run)
        if run.cluster.rank == 0:
            here, before = cpu.describe(), {}
            with contextlib.suppress(UserError):
                before = run_folder.read_start(run.storage) or {}
            if step:
                _warn_of_processor(run, here, before)
            now = round(started, 3)
            starts = [*run_folder.starts(before), now][-run_folder.MOST_STARTS :]
            _store(run, loop, {"started": now, "starts": starts, **plan, "processor": here})
    if step or not first:
        run.reporter.say(f"resuming at step {step}", event="resumed", step=step)


def _warn_of_classes(run: Run) -> None:
    data = run.dataset
    if data.shards:  # whose labels are read with their images
        return
    counts = np.bincount(data.train.labels, minlength=data.classes).tolist()
    if words := dataset.without_images(counts, data.class_names):
        run.warn(
            f"{words} training image; classes go from 0 to the largest label: check the labels, or "
            "put the data again, which makes them start at 0"
        )


def _warn_of_processor(run: Run, here: dict[str, str], before: dict[str, Any]) -> None:
    """Warn if the command before this one ran on a processor that may compute other bits."""
    there = before.get("processor")
    if isinstance(there, dict) and there.get("instructions") not in (None, here["instructions"]):
        run.warn(
            f"resumes on another kind of processor: {cpu.name(there)} before, now "
            f"{cpu.name(here)}; the last bits of the weights may differ from those of a run "
            "on one kind"
        )


def _store(run: Run, loop: Loop, record: dict[str, Any]) -> None:
    record |= {"commit": os.environ.get(run_folder.COMMIT) or None, "model": loop.layers()}
    with contextlib.suppress(UserError):
        run.storage.replace(run_folder.START, run_folder.pretty(record))
        if architecture := loop.architecture():
            run.storage.replace(run_folder.ARCHITECTURE, architecture.encode())


def _plan(run: Run, loop: Loop) -> dict[str, Any]:
    sums = "TCP" if loop.all_reduce else "TensorFlow"
    if loop.all_reduce and run.config.all_reduce_precision != "float32":
        sums += f" in {run.config.all_reduce_precision}"
    return {
        "workers": run.cluster.workers,
        "replicas": loop.replicas.count,
        "device": "GPU" if devices.on_gpus() else "CPU",
        "threads": devices.threads(loop.microbatches),
        "xla": loop.xla,
        "layers": "reordered" if loop.reordered else "keras",
        "microbatches": loop.microbatches,
        "all_reduce": sums,
    }


def _announce_plan(run: Run, loop: Loop, plan: dict[str, Any]) -> None:
    config, samples, batch = run.config, run.dataset.samples, run.config.batch_size
    replicas, workers, say = loop.replicas.count, run.cluster.workers, run.reporter.say
    say(
        f"{config.model or config.preset}: {plural(run.total, 'step')} in "
        f"{run.total * batch / samples:.2f} epochs of {plural(samples, 'image')} "
        f"({samples / batch:,.1f} steps an epoch)",
        event="started",
        steps=run.total,
    )
    say(
        f"batch: {batch} images a step = {replicas} x {batch // replicas}, workers: {workers}",
        batch_size=batch,
        replicas=replicas,
        workers=workers,
    )
    told = ("device", "threads", "xla", "layers", "microbatches")
    say(run_folder.device_line(plan), **{name: plan[name] for name in told})
