"""The first lines that a run prints: what it trains, on what, and from where."""

import numpy as np

from trainer.data import dataset
from trainer.train import devices
from trainer.train.loop import Loop
from trainer.train.run import Run


def announce(run: Run, loop: Loop, step: int, *, first: bool) -> None:
    """Print the plan of the run in a command's first attempt, and at which step it resumes."""
    if first:
        _announce_plan(run, loop)
        _warn_of_classes(run)
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


def _announce_plan(run: Run, loop: Loop) -> None:
    config, samples, batch = run.config, run.dataset.samples, run.config.batch_size
    replicas, workers, say = loop.replicas.count, run.cluster.workers, run.reporter.say
    say(
        f"{config.model or config.preset}: {run.total} steps in "
        f"{run.total * batch / samples:.2f} epochs of {samples:,} images "
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
    device = "GPU" if devices.on_gpus() else "CPU"
    microbatches, all_reduce = loop.microbatches, "ring" if loop.all_reduce else "TensorFlow"
    layers = "reordered" if loop.reordered else "keras"
    threads = devices.threads(microbatches)
    say(
        f"device: {device}, threads: {threads}, XLA: {'on' if loop.xla else 'off'}"
        + f", layers: {layers}"
        + (f" in {microbatches} microbatches" if microbatches > 1 else "")
        + (f", all-reduce: {all_reduce}" if workers > 1 else ""),
        device=device,
        threads=threads,
        xla=loop.xla,
        layers=layers,
        microbatches=microbatches,
    )
