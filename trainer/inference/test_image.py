"""One test image of a run's data: what it shows, what it is, and what the model makes of it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.cells import cell_len

from trainer.common.text import class_label, plural
from trainer.errors import ConfigError
from trainer.inference.picture import Digit
from trainer.inference.predict import LONGEST_NAME, Prediction, Seen
from trainer.runs.trained_weights import Restored, dataset_of

INK = " ░▒▓█"
BAR = 40  # columns of a probability of 1
WIDEST = 39  # pixels of an image in the terminal, two columns each
MOST = 20  # classes that get a bar, besides the true one


def find(restored: Restored, number: int, data: str | None) -> tuple[Seen, int]:
    """Return a test image, by its number from 0 on, and its class.

    ``data`` is the URI of other data than the run's.

    Raises:
        ConfigError: there is no such image, or the model does not take the data's; see also
            ``trained_weights.dataset_of``.
        DataError, UnavailableError: see ``dataset.load``.
    """
    uri = data or restored.settings.config.data
    test = dataset_of(restored.settings, data).test
    if not 0 <= number < len(test.images):
        raise ConfigError(
            f"--test {number}: {uri} has {plural(len(test.images), 'test image')}; "
            f"give 0 to {len(test.images) - 1}"
        )
    image, shape = test.images[number], restored.settings.input_shape
    if image.shape != shape:
        raise ConfigError(
            f"--data {uri}: its images are {'x'.join(map(str, image.shape))}, but the model takes "
            f"{'x'.join(map(str, shape))}; give the data of the run"
        )
    height, width = image.shape[:2]
    shown = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    digit = Digit(image, (0, 0, width, height))
    return Seen(f"test image {number}", shown, (width, height), [digit]), int(test.labels[number])


def as_text(seen: Seen, truth: int, prediction: Prediction, names: Sequence[str] = ()) -> str:
    """Return the image in letters, its class, and the probabilities as bars.

    Of many classes, the likeliest and the true one get a bar.
    """

    def called(label: int) -> str:
        return class_label(label, names, LONGEST_NAME, cell_len)

    right = "right" if prediction.digit == truth else "wrong"
    lines = [
        *_drawn(seen.small),
        f"{seen.name}: {called(truth)}; predicted: {called(prediction.digit)}, {right}",
    ]
    order = np.argsort(-np.array(prediction.probabilities), kind="stable")
    labels = sorted({truth, *map(int, order[:MOST])})
    wide = max(cell_len(called(label)) for label in labels)
    for label in labels:
        probability = prediction.probabilities[label]
        name = called(label)
        bar = "█" * round(BAR * probability)
        lines.append(f"{name}{' ' * (wide - cell_len(name))}  {probability:>6.1%}  {bar}".rstrip())
    if rest := [p for label, p in enumerate(prediction.probabilities) if label not in labels]:
        lines.append(f"and {len(rest)} more, {sum(rest):.1%} in all")
    return "\n".join(lines) + "\n"


def _drawn(image: Image.Image) -> list[str]:
    """Return the image in letters, two for each pixel."""
    small = image.convert("L")
    small.thumbnail((WIDEST, WIDEST))
    grey: npt.NDArray[np.uint8] = np.asarray(small)
    levels = np.rint(grey / 255 * (len(INK) - 1)).astype(int)
    return ["".join(INK[level] * 2 for level in row).rstrip() for row in levels]
