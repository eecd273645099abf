"""A worker in PyTorch that a benchmark kills, run by an interpreter without the trainer's packages.

    LAUNCHER -m benchmarks.recovery_side KIND SETTINGS ARRAYS FOLDER EVERY

KIND is ``torchrun``, ``ft_launcher`` or ``torchft``; SETTINGS and ARRAYS are those of
torch_side.py. It trains until it is killed, and after every step appends a line to FOLDER/steps:
seconds of the monotonic clock, its pid and rank, how many workers made the step (0: it does not
count), and the step's number. Every EVERY steps rank 0 stores a checkpoint, and all begin with it.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks import torch_side

LIMIT = 250  # seconds until it ends by itself, whatever became of its launcher

After = Callable[[], tuple[int, int]]  # called after a step: the workers that made it, its number


def main() -> None:
    """Train as the arguments say."""
    signal.alarm(LIMIT)
    kind, settings, path, folder, every = sys.argv[1:]
    wanted, arrays = json.loads(settings), np.load(path)
    images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long()
    torch.manual_seed(wanted["seed"])
    model = torch_side.model(wanted["preset"])
    optimizer = torch_side.optimizer(wanted, model, fused=False)
    store = Store(Path(folder) / "checkpoint", int(every), model, optimizer)
    if kind == "torchft":
        rank = int(os.environ["REPLICA_GROUP_ID"])
        trained, optimizer, first, after = with_torchft(model, optimizer, store, rank)
    else:
        distributed.init_process_group("gloo")
        rank, heart = distributed.get_rank(), heartbeat(kind)
        trained, first, after = with_gloo(model, store, rank, heart)
    loss = nn.CrossEntropyLoss(label_smoothing=wanted["label_smoothing"])
    lines = os.open(f"{folder}/steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for rows in islice(batches(len(labels), wanted["batch_size"], rank), first, None):
        optimizer.zero_grad()
        loss(trained(images[rows].permute(0, 3, 1, 2) / 255), labels[rows]).backward()
        optimizer.step()
        members, step = after()
        line = f"{time.monotonic()} {os.getpid()} {rank} {members} {step}\n"
        os.write(lines, line.encode())


def batches(count: int, size: int, rank: int) -> Iterator[torch.Tensor]:
    """Yield one of two workers' half of every batch: another order each epoch, whole batches."""
    generator = torch.Generator().manual_seed(1)
    while True:
        for batch in torch.randperm(count, generator=generator).split(size):
            if len(batch) == size:
                yield batch[rank * size // 2 :][: size // 2]


class Store:
    """The checkpoint of a model and its optimizer, which rank 0 replaces every so many steps."""

    def __init__(self, path: Path, every: int, model: nn.Module, optimizer: Any) -> None:
        self._path, self._every = path, every
        self._model, self._optimizer = model, optimizer

    def state(self) -> dict[str, Any]:
        """Return the state of both."""
        return {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def set(self, state: dict[str, Any]) -> None:
        """Give both a state."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def load(self) -> dict[str, Any]:
        """Give both the state of the last checkpoint, if there is one, and return all it holds."""
        if not self._path.exists():
            return {}
        kept: dict[str, Any] = torch.load(self._path, weights_only=True)
        self.set(kept)
        return kept

    def save(self, step: int, rank: int, **more: Any) -> None:
        """Store a checkpoint if it is due, with its step and more."""
        if rank == 0 and step % self._every == 0:
            part = self._path.with_suffix(".part")
            torch.save({**self.state(), "step": step, **more}, part)
            part.replace(self._path)


def with_gloo(
    model: nn.Module, store: Store, rank: int, heart: Callable[[], None]
) -> tuple[nn.Module, int, After]:
    """Return the model for gloo, the step that it begins after, and what follows each step."""
    first = step = store.load().get("step", 0)

    def after() -> tuple[int, int]:
        nonlocal step
        step += 1
        heart()
        store.save(step, rank)
        return distributed.get_world_size(), step

    return DistributedDataParallel(model), first, after


def heartbeat(kind: str) -> Callable[[], None]:
    """Return what tells ft_launcher's monitor that this rank is alive; nothing without one."""
    if kind != "ft_launcher":
        return lambda: None
    from nvidia_resiliency_ext.fault_tolerance import RankMonitorClient

    client = RankMonitorClient()
    client.init_workload_monitoring()
    send: Callable[[], None] = client.send_heartbeat
    return send


def with_torchft(
    model: nn.Module, optimizer: Any, store: Store, rank: int
) -> tuple[nn.Module, Any, int, After]:
    """Return what ``with_gloo`` does, and the optimizer, for torchft, as its example has it."""
    import torchft

    manager = torchft.Manager(
        pg=torchft.ProcessGroupGloo(timeout=timedelta(seconds=5)),
        min_replica_size=1,
        load_state_dict=store.set,
        state_dict=store.state,
        replica_id=f"worker_{rank}",
        timeout=timedelta(seconds=30),
    )
    kept = store.load()
    if kept:
        manager.load_state_dict(kept["manager"])
    first = step = manager.current_step()

    def after() -> tuple[int, int]:
        nonlocal step
        before, step = step, manager.current_step()
        if step == before:
            return 0, step
        store.save(step, rank, manager=manager.state_dict())
        return manager.num_participants(), step

    trained = torchft.DistributedDataParallel(manager, model)
    return trained, torchft.Optimizer(manager, optimizer), first, after


if __name__ == "__main__":
    main()
