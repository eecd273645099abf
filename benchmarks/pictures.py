"""Test images made hostile, read as `trainer predict` prepares them and as people do naively.

    python -m benchmarks.pictures --run URI --data URI [--count N] [--seed N] [--picture FILE]

A picture counts as read right when one digit is found and the model reads it as it reads the
original image. The naive way: grey, the whole picture scaled to 28 x 28, inverted where most of it
is light. Prints the tables of docs/predict.md, the last two of photographs; with --picture writes
one of each kind, original, hostile, naive and ours.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tests.support import hostile
from tests.support import photographs as drawn
from trainer.data.dataset import Split
from trainer.errors import DataError
from trainer.inference import picture

Bytes = npt.NDArray[np.uint8]
Reader = Callable[[Bytes], npt.NDArray[np.int64]]  # images [n, 28, 28] to classes [n]
SCALES = (0.3, 0.4, 0.5, 0.7, 1.0, 2.0, 4.0, 8.0)
CELL = 140  # pixels of a picture on the sheet


@dataclass
class Lot:
    """Pictures of one kind.

    Attributes:
        originals, files: MNIST's images and the pictures made of them.
        naive, ours: as they are prepared; black where not one digit was found.
    """

    originals: list[Bytes] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    naive: list[Bytes] = field(default_factory=list)
    ours: list[Bytes] = field(default_factory=list)

    def add(self, original: Bytes, file: bytes) -> None:
        """Add a picture."""
        self.originals.append(original)
        self.files.append(file)
        self.naive.append(naively(file))
        self.ours.append(prepared(file))

    def right(self, read: Reader) -> tuple[int, int]:
        """Return how many are read as their originals, naively and as prepared by us."""
        truth = read(np.stack(self.originals))
        ours = np.stack(self.ours)
        return (
            int((read(np.stack(self.naive)) == truth).sum()),
            int(((read(ours) == truth) & ours.any(axis=(1, 2))).sum()),
        )


def naively(file: bytes) -> Bytes:
    """Return the whole picture as a grey 28 x 28 image."""
    grey = Image.open(io.BytesIO(file)).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    image = np.asarray(grey)
    return 255 - image if image.mean() > 127 else image


def prepared(file: bytes) -> Bytes:
    """Return the one digit of a picture, or black where it has none or several."""
    try:
        digits, _ = picture.digits(picture.decode(file, "hostile"), "hostile")
    except DataError:
        digits = []
    return digits[0].image if len(digits) == 1 else np.zeros((28, 28), np.uint8)


def lots(images: Bytes, count: int, seed: int) -> Iterator[tuple[str, Lot]]:
    """Yield the pictures of every kind, ``count`` of each, made of images [n, 28, 28]."""
    for number, kind in enumerate(hostile.KINDS):
        random = np.random.default_rng([seed, number])
        lot = Lot()
        for image in images[random.choice(len(images), count)]:
            lot.add(image, hostile.make(image, kind, random))
        yield kind, lot


def scaled(images: Bytes, count: int, seed: int) -> Iterator[tuple[float, Lot]]:
    """Yield pictures that are scaled and nothing else."""
    for scale in SCALES:
        random = np.random.default_rng([seed, int(100 * scale)])
        lot = Lot()
        for image in images[random.choice(len(images), count)]:
            lot.add(image, hostile.draw(image, hostile.Drawing(scale), random))
        yield scale, lot


def photographs(test: Split, read: Reader, seed: int, kinds: list[str]) -> str:
    """Return a table in Markdown of the digits on photographs and how many are read right.

    A digit is right where the picture's digits, in reading order, have it; one too many takes away
    one that is right.
    """
    rows: dict[str, list[int]] = {}
    for kind, file, truth in drawn.make(test.images[..., 0], test.labels, seed, kinds):
        try:
            found, _ = picture.digits(picture.decode(file, kind), kind)
            answers = read(np.stack([digit.image for digit in found])).tolist()
        except DataError:
            answers = []
        same = SequenceMatcher(None, truth, answers, autojunk=False).get_matching_blocks()
        right = sum(block.size for block in same) - max(0, len(answers) - len(truth))
        row = rows.setdefault(kind, [0, 0])
        row[0] += len(truth)
        row[1] += max(0, right)
    rows["**all**"] = [sum(row[n] for row in rows.values()) for n in (0, 1)]
    lines = ["| photographs | digits | right |", "|---|---|---|"]
    lines += [f"| {kind} | {count} | {right} |" for kind, (count, right) in rows.items()]
    return "\n".join(lines)


def sheet(kinds: list[tuple[str, Lot]], read: Reader) -> Image.Image:
    """Return one picture of each kind: original, hostile, naive and ours, with the readings."""
    font = ImageFont.load_default(size=16)
    result = Image.new("RGB", (170 + 4 * (CELL + 12), 34 + len(kinds) * (CELL + 30)), "white")
    draw = ImageDraw.Draw(result)
    for column, title in enumerate(("MNIST", "picture", "naive", "trainer predict")):
        draw.text((170 + column * (CELL + 12), 8), title, "black", font)
    for row, (kind, lot) in enumerate(kinds):
        top = 34 + row * (CELL + 30)
        draw.text((8, top + CELL // 2 - 8), kind.replace(" 0.3", "\n0.3"), "black", font)
        images = [lot.originals[0], lot.naive[0], lot.ours[0]]
        first, *others = read(np.stack(images))
        file = picture.visible(picture.decode(lot.files[0], kind))
        cells = [Image.fromarray(images[0]), file, *map(Image.fromarray, images[1:])]
        for column, cell in enumerate(cells):
            factor = CELL / max(cell.size)
            how = Image.Resampling.NEAREST if factor > 2 else Image.Resampling.LANCZOS
            size = round(cell.width * factor), round(cell.height * factor)
            left = 170 + column * (CELL + 12)
            result.paste(cell.convert("RGB").resize(size, how), (left, top))
            if column != 1:
                reading = (first, None, *others)[column]
                colour = "black" if reading == first else "#c0392b"
                draw.text((left, top + CELL + 2), f"read as {reading}", colour, font)
    return result


def table(head: str, rows: list[tuple[str, int, int, int]]) -> str:
    """Return a table in Markdown of rows (name, pictures, naive, ours)."""
    lines = [f"| {head} | pictures | naive | `trainer predict` |", "|---|---|---|---|"]
    for name, count, naive, ours in rows:
        lines.append(f"| {name} | {count} | {naive / count:.1%} | {ours / count:.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=84, help="of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--picture", metavar="FILE")
    options = parser.parse_args()
    from trainer.data import dataset
    from trainer.runs.trained_weights import restore
    from trainer.train import models

    model = models.load(restore(options.run))

    def read(images: Bytes) -> npt.NDArray[np.int64]:
        classes: npt.NDArray[np.int64] = np.asarray(model(images[..., None])).argmax(axis=1)
        return classes

    test = dataset.load(options.data).test
    images = test.images[..., 0]
    kinds = list(lots(images, options.count, options.seed))
    rows = [(kind, options.count, *lot.right(read)) for kind, lot in kinds]
    total = [sum(column) for column in list(zip(*rows, strict=True))[1:]]
    print(table("kind", [*rows, ("**all**", total[0], total[1], total[2])]), flush=True)
    print()
    alone = scaled(images, options.count, options.seed)
    print(table("scale", [(f"{s} times", options.count, *lot.right(read)) for s, lot in alone]))
    print()
    for drawings in (drawn.KINDS, drawn.MORE):
        print(photographs(test, read, options.seed, list(drawings)), "\n", flush=True)
    if options.picture:
        sheet(kinds, read).save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
