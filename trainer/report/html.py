"""Facts to one self-contained HTML page: the templates in ``trainer/report/pages``.

A page names nothing outside itself, and its content security policy has browsers refuse whatever
would. What comes from a run is text that nobody checked: it is escaped everywhere.
"""

import base64
import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import PIL.Image

from trainer.errors import ConfigError
from trainer.report import charts, series, vega
from trainer.storage.base import open_storage

MOST_PIXELS = 64  # of an image's longer side


def render(template: str, shown: Sequence[charts.Chart] = (), **facts: Any) -> bytes:
    """Return the page of a template that extends ``base.html``, with all its charts, UTF-8."""
    drawings = vega.draw({chart.key: chart.spec for chart in shown})
    # Lone surrogates, which JSON may hold, have no UTF-8.
    text: str = _environment().get_template(template).render(drawings=drawings, **facts)
    return text.encode(errors="replace")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.report", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"palette": vega.PALETTE, "dashes": vega.DASHES}
    environment.filters["value"] = series.text
    return environment


def write(target: str, data: bytes) -> None:
    """Write a page to where a user wants it: a file, a device such as /dev/stdout, or a URI.

    Raises:
        ConfigError: the target is no name of a file, or cannot be written.
    """
    where = target if "://" in target else os.path.realpath(os.path.expanduser(target))  # noqa: PTH111
    folder, _, name = where.rpartition("/")
    if not target or target.endswith("/") or not name or folder.endswith(":/"):
        raise ConfigError(f"--output {target!r}: no name of a file; give FOLDER/NAME.html")
    path = Path(where)
    if "://" in target or path.is_file() or not path.exists():
        open_storage(folder or "/").replace(name, data)
        return
    try:  # what is no file must not become one
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"--output {target}: {error.strerror}; give another name") from None


def png(images: npt.NDArray[np.uint8]) -> str:
    """Return images, side by side, as the ``data:`` URI of one PNG.

    Args:
        images: uint8 [n, height, width, channels]; three channels are red, green and blue, of any
            other number only the first is shown. Each is made at most MOST_PIXELS wide and high.
    """
    count, height, width, channels = images.shape
    row = images.swapaxes(0, 1).reshape(height, count * width, channels)
    picture = PIL.Image.fromarray(np.ascontiguousarray(row if channels == 3 else row[..., 0]))
    scale = min(1.0, MOST_PIXELS / max(height, width))
    if scale < 1:
        size = count * max(1, round(width * scale)), max(1, round(height * scale))
        picture = picture.resize(size, PIL.Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
