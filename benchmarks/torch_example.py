"""A side: the network and settings of PyTorch's MNIST example.

    python -m benchmarks.torch_example SEED ARRAYS

After https://github.com/pytorch/examples/tree/main/mnist: 3x3 convolutions of 32 and 64, pooled,
dropout of 0.25 and 0.5 around a dense layer of 128, Adadelta with a learning rate of 1.0 times 0.7
an epoch, batch 64. Its DataLoader, which takes most of an epoch, is left out: batches are taken
from tensors of normalised images by a permutation. Requests are those of keras_example.py.
"""

import sys
import time

import numpy as np
import torch
from torch import nn

from benchmarks.common import Answer, serve

BATCH = 64
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels
FALL = 0.7  # of the learning rate, an epoch


def main() -> None:
    """Be the side."""
    torch.manual_seed(int(sys.argv[1]))
    arrays = np.load(sys.argv[2])

    def scaled(name: str) -> torch.Tensor:
        values = arrays[name].astype(np.float32).transpose(0, 3, 1, 2) / 255
        return torch.from_numpy(np.ascontiguousarray((values - MEAN) / DEVIATION))

    images, tests = scaled("images"), scaled("test_images")
    labels, answers = (
        torch.from_numpy(arrays[name].astype(np.int64)) for name in ("labels", "test_labels")
    )
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=FALL)

    def epoch(rows: int) -> None:
        model.train()
        for batch in torch.randperm(min(rows, len(labels))).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        schedule.step()

    def accuracy() -> float:
        model.eval()
        with torch.no_grad():
            guesses = torch.cat([model(part).argmax(1) for part in tests.split(1000)])
        return float((guesses == answers).float().mean())

    def work(do: str, rows: int = 0) -> Answer:
        began = time.perf_counter()
        if do == "epoch":
            epoch(rows)
            return {"seconds": time.perf_counter() - began}
        return {"accuracy": accuracy(), "seconds": time.perf_counter() - began}

    serve(work)


if __name__ == "__main__":
    main()
