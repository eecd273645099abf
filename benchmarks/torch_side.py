"""A side in PyTorch, run by an interpreter that has nothing of the trainer.

    python -m benchmarks.torch_side SETTINGS ARRAYS

SETTINGS are those of a preset as JSON (preset, batch_size, optimizer, learning_rate, momentum,
label_smoothing, seed), ARRAYS an .npz file with images uint8 [n, h, w, c] and labels int32 [n].
With RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment it is one of a gang with
DistributedDataParallel over gloo; the batch is then split among the ranks. Requests are those of
tensorflow_side.py.

The loop is the plain one: images are tensors of floats, scaled ahead, from which a permutation
takes the batch; no DataLoader, no metrics. Variants change one thing or more that a user finds in
the documentation; torch.compile is tried where there is a C++ compiler.
"""

import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.common import Answer, serve

PROBE = 2000  # images whose loss is looked at
PLAIN = "plain"


class LogSigmoid(nn.Module):  # type: ignore[misc]
    """Outputs with a sigmoid each, as logits."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of their sigmoid."""
        return nn.functional.logsigmoid(values)


def model(preset: str) -> nn.Module:
    """Return the model of a preset for images [n, 1, 28, 28]; ``cnn-best`` without its warp."""
    dense = {
        "softmax": ([], None),
        "single-layer": ([], None),
        "mlp-100": ([100], nn.ReLU),
        "mlp-65-65": ([65, 65], nn.ReLU),
        "dnn-128-32": ([128, 32], nn.ReLU),
        "linear-512-256-128": ([512, 256, 128], None),
    }
    if preset == "cnn":
        return _cnn()
    if preset == "cnn-best":
        return _cnn_best()
    units, activation = dense[preset]
    stack: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise([784, *units]):
        stack += [nn.Linear(before, after), *([activation()] if activation else [])]
    stack.append(nn.Linear([784, *units][-1], 10))
    if preset in ("single-layer", "mlp-100"):
        stack.append(LogSigmoid())
    return nn.Sequential(*stack)


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 128, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def _cnn_best() -> nn.Module:
    def convolution(inputs: int, filters: int, size: int, **settings: int) -> list[nn.Module]:
        kernel = nn.Conv2d(inputs, filters, size, bias=False, **settings)
        return [kernel, nn.BatchNorm2d(filters), nn.ReLU()]

    return nn.Sequential(
        *convolution(1, 24, 5, stride=2, padding=2),
        *convolution(24, 48, 3),
        *convolution(48, 48, 3),
        *convolution(48, 96, 3, stride=2, padding=1),
        *convolution(96, 96, 3),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(864, 10),
    )


class Variant:
    """A model, its optimizer, and how they are run.

    Args:
        name: PLAIN, or what differs from it.
        settings: of the preset.
        images: float [n, 1, h, w].
        labels: int64 [n].
    """

    def __init__(
        self, name: str, settings: dict[str, Any], images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        torch.manual_seed(settings["seed"])
        self._threads = 1 if "1 thread" in name else torch.get_num_threads()
        layout = torch.channels_last if "channels-last" in name else torch.contiguous_format
        self.model: Any = model(settings["preset"]).to(memory_format=layout)
        self.parameters = sum(each.numel() for each in self.model.parameters())
        self._rank, self._world = 0, 1
        if distributed.is_initialized():
            self.model = DistributedDataParallel(self.model)
            self._rank, self._world = distributed.get_rank(), distributed.get_world_size()
        self._images = images.to(memory_format=layout)
        self._labels = labels
        self._batch = settings["batch_size"]
        self._optimizer = optimizer(settings, self.model, fused="fused" in name)
        if "compiled" in name:
            self.model = torch.compile(self.model)
        self._loss = nn.CrossEntropyLoss(label_smoothing=settings["label_smoothing"])
        self._batches = self._rows()

    def _rows(self) -> Iterator[torch.Tensor]:
        """Yield this rank's part of every batch: another order each epoch, whole batches."""
        generator = torch.Generator().manual_seed(1)
        share = self._batch // self._world
        while True:
            rows = torch.randperm(len(self._labels), generator=generator)
            for batch in rows.split(self._batch):
                if len(batch) == self._batch:
                    yield batch[self._rank * share :][:share]

    def train(self, steps: int) -> float:
        """Return the seconds of so many steps."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        self.model.train()
        began = time.perf_counter()
        for _ in range(steps):
            rows = next(self._batches)
            loss = self._loss(self.model(self._images[rows]), self._labels[rows])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        loss.item()
        seconds = time.perf_counter() - began
        torch.set_num_threads(before)
        return seconds

    def loss(self) -> float:
        """Return the mean cross-entropy of the first images."""
        self.model.eval()
        with torch.no_grad():
            found = nn.functional.cross_entropy(
                self.model(self._images[:PROBE]), self._labels[:PROBE]
            )
        return float(found)


def optimizer(settings: dict[str, Any], trained: nn.Module, *, fused: bool) -> Any:
    """Return the optimizer of a preset's settings."""
    rate, parameters = settings["learning_rate"], trained.parameters()
    more: dict[str, Any] = {"fused": True} if fused else {}
    if settings["optimizer"] == "adam":
        return torch.optim.Adam(parameters, rate, eps=1e-7, **more)
    if settings["optimizer"] == "adagrad":
        return torch.optim.Adagrad(
            parameters, rate, initial_accumulator_value=0.1, eps=1e-7, **more
        )
    return torch.optim.SGD(parameters, rate, settings["momentum"], **more)


def variants(preset: str) -> list[str]:
    """Return the plain loop and all that may be faster."""
    options = ["fused optimizer", "1 thread"] + ["channels-last"] * ("cnn" in preset)
    chosen = [c for size in range(1, 4) for c in itertools.combinations(options, size)]
    if shutil.which("g++"):
        options.remove("1 thread")
        chosen += [("compiled",), ("compiled", *options)]
    return [PLAIN, *(", ".join(each) for each in chosen)]


def main() -> None:
    """Be the side that the arguments describe."""
    settings, arrays = json.loads(sys.argv[1]), np.load(sys.argv[2])
    scaled = arrays["images"].astype(np.float32).transpose(0, 3, 1, 2) / 255
    images = torch.from_numpy(np.ascontiguousarray(scaled))
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    made: dict[str, Variant] = {}

    def get(name: str) -> Variant:
        if name not in made:
            made[name] = Variant(name, settings, images, labels)
        return made[name]

    def work(do: str, variant: str = PLAIN, steps: int = 0) -> Answer:
        if do == "variants":
            names = variants(settings["preset"])
            return {"variants": names, "parameters": get(PLAIN).parameters}
        if do == "loss":
            return {"loss": get(PLAIN).loss()}
        return {"seconds": get(variant).train(steps), "steps": steps}

    serve(work)


if __name__ == "__main__":
    main()
