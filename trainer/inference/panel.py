"""Pictures beside what the model saw of them, for ``predict --show``."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from trainer.common.text import class_name, printable
from trainer.errors import ConfigError
from trainer.inference import picture
from trainer.inference.predict import SHOWN, STANDARD_INPUT, Prediction, Seen
from trainer.runs.tensorboard_images import drawable, scaled

CELL = 112  # pixels of an enlarged image in a panel
ACROSS = 5  # of them in a row, at most


def show(
    seen: Sequence[Seen],
    predictions: Sequence[Prediction],
    folder: str,
    class_names: Sequence[str] = (),
) -> list[str]:
    """Write each picture with what the model saw of it, and return the files' printable names.

    They go into the folder or, where it is empty, beside their pictures.

    Raises:
        ConfigError: a file cannot be written.
    """
    rest = list(predictions)
    written: list[Path] = []
    for each in seen:
        own, rest = rest[: len(each.digits)], rest[len(each.digits) :]
        source = Path("stdin" if each.name == STANDARD_INPUT else each.name)
        beside = Path(folder) if folder else source.parent
        target = beside / f"{source.stem}.seen.png"
        if target in written:  # of another picture of that name
            target = beside / f"{len(written) + 1}-{source.name}.seen.png"
        try:
            beside.mkdir(parents=True, exist_ok=True)
            draw(each, own, class_names).save(target)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"--show: {printable(str(target))}: {reason}; give another folder"
            ) from None
        written.append(target)
    return [printable(str(target)) for target in written]


def draw(
    seen: Seen, predictions: Sequence[Prediction], class_names: Sequence[str] = ()
) -> Image.Image:
    """Return the original with its digits in boxes, and beside it what the model was given."""
    small = picture.visible(seen.small)
    factor = small.width / seen.size[0]
    if factor == 1 and max(small.size) < SHOWN // 2:
        factor = SHOWN // 2 // max(small.size)
        size = small.width * factor, small.height * factor
        small = small.resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(small)
    font, names = ImageFont.load_default(size=14), drawable(class_names)
    for each in predictions:
        left, top, right, bottom = (round(edge * factor) for edge in each.box)
        pen.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline="#e4572e", width=2)
    rows = max(1, (small.height + 8) // (CELL + 28), -(-len(predictions) // ACROSS))
    columns = -(-len(predictions) // rows)
    height = max(small.height, min(rows, len(predictions)) * (CELL + 28))
    sheet = Image.new("RGB", (small.width + 16 + columns * (CELL + 8), height + 16), "white")
    sheet.paste(small, (8, 8))
    pen = ImageDraw.Draw(sheet)
    for place, (digit, each) in enumerate(zip(seen.digits, predictions, strict=True)):
        x = small.width + 16 + place % columns * (CELL + 8)
        y = 8 + place // columns * (CELL + 28)
        image = scaled(digit.image.reshape(*digit.image.shape[:2], -1), CELL)
        sheet.paste(image, (x + (CELL - image.width) // 2, y + (CELL - image.height) // 2))
        sure = f"  {each.probability:.1%}"
        name = class_name(each.digit, names, CELL - font.getlength(sure), font.getlength)
        pen.text((x, y + CELL + 2), f"{name}{sure}", "black", font)
    return sheet
