"""The page of a run, and the same in short for a terminal."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.cells import cell_len

from trainer import classification
from trainer.classification import Quality
from trainer.common.text import class_label, class_name, plural, size
from trainer.common.untrusted_json import number
from trainer.config import TrainConfig
from trainer.report import charts, command, facts, html, lookup, shared_work
from trainer.report.charts import Chart
from trainer.report.facts import Facts
from trainer.report.series import Series
from trainer.runs import reader, run_folder

SAMPLES = 10  # images of each class
MOST_LAYERS, MOST_RANKS = 200, 64  # in their tables

# The captions of the four charts in the order of the page.
LOSS, ACCURACY, RATE, SPEED = "Loss", "Accuracy", "Learning rate", "Images per second"


@dataclass(frozen=True)
class Setting:
    """A row of the table of settings; ``changed`` if the value is not the default."""

    name: str
    value: str
    default: str
    meaning: str
    changed: bool


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix; ``shade`` of its colour, 0 to 1."""

    count: int
    kind: str
    shade: float


@dataclass(frozen=True)
class Picture:
    """A wrong test image as a data URI, with what the model made of it."""

    source: str
    wrong: classification.Wrong


def write(run_uri: str, output: str | None = None) -> str:
    """Write the page of a run into its folder, or to a file, and return where it is.

    Raises:
        ConfigError: the folder is no run's, or ``output`` cannot be written.
        DataError: the run's config.json is damaged.
        UnavailableError: the storage was not reached.
    """
    found = facts.gather(run_uri)
    if output is not None:
        html.write(output, as_page(found))
        return output
    run_folder.open_folder(found.uri).replace(run_folder.REPORT, as_page(found))
    return f"{found.uri}/{run_folder.REPORT}"


def as_page(found: Facts) -> bytes:
    """Return the page, UTF-8."""
    quality, names = found.quality, found.class_names
    described = isinstance(found.network, Mapping)
    lines = curves(found)
    diagram = quality if isinstance(quality, str) else calibration(quality)
    return html.render(
        "report.html",
        [each for each in (*(chart for _, chart in lines), diagram) if isinstance(each, Chart)],
        facts=found,
        called=lambda label, most=24: class_name(label, names, most, cell_len),
        listed=lambda label, most=24: class_label(label, names, most, cell_len),
        hint=lambda label: (
            Markup(' title="{}"').format(class_name(label, names, 200)) if names else ""
        ),
        headline=headline(found),
        status=found.status,
        curves=lines,
        validation_note=validation_note(found),
        cells=None if isinstance(quality, str) else cells(quality),
        wrong=gallery(found),
        samples=samples(found),
        lookup=looked_up(found),
        most_listed=lookup.MOST_LISTED,
        names=_names(found),
        calibration=diagram,
        settings=settings(found.stored, epochs_done(found)),
        ran=run_rows(found),
        command=command.repeat(found.stored, found.uri, _workers(found)),
        layers=layer_rows(found),
        ranks=rank_rows(found),
        data=data_rows(found),
        work=found.work,
        spent=time_rows(found),
        parts=shared_work.COLOURS,
        result=result_rows(found.result),
        network=found.network if described else None,
        network_reason="" if described else found.network,
    )


def headline(found: Facts) -> list[str]:
    """Return the result in a few parts, the most important first."""
    accuracy, loss = found.of_result("test_accuracy"), found.of_result("test_loss")
    restarts = 0 if isinstance(found.attempts, str) else len(found.attempts) - 1
    again = [plural(restarts, "restart")] if restarts > 0 else []
    if accuracy is None:
        return [*_so_far(found), *again]
    parts = [f"test accuracy {accuracy:.2%}"]
    if loss is not None:
        parts.append(f"loss {loss:.4f}")
    steps, seconds = found.of_result("steps"), found.of_result("train_seconds")
    if steps is not None:
        parts.append(
            plural(int(steps), "step") + (f" in {seconds:,.1f} s" if seconds is not None else "")
        )
    if (speed := found.of_result("images_per_second")) is not None:
        parts.append(f"{speed:,.0f} images/s")
    if (workers := found.of_result("workers")) is not None:
        parts.append(plural(int(workers), "worker"))
    return parts + again


def _so_far(found: Facts) -> list[str]:
    points = found.points("loss") or found.points("accuracy")
    state = str(found.status.state)
    if state == "finished":
        return [state, "result not readable"]
    if not points:
        return [state, "no step has been reported yet"]
    parts = [state, plural(int(points[-1][0]), "step") + " so far"]
    if (loss := found.last("loss")) is not None:
        parts.append(f"training loss {loss:.4f}")
    if (accuracy := found.last("accuracy")) is not None:
        parts.append(f"accuracy {accuracy:.2%}")
    return parts


def curves(found: Facts) -> list[tuple[str, Chart | str]]:
    """Return title and chart of loss, accuracy, learning rate and throughput, or a reason."""
    marks = found.restarts
    speed = Series("training", found.points("images_per_second"))
    rate = () if isinstance(found.learning_rate, str) else found.learning_rate
    reason = found.metrics if isinstance(found.metrics, str) else "No step has been reported yet."
    made: list[tuple[str, Chart | str]] = []
    options: dict[str, Any]
    for title, series, options in (
        (
            LOSS,
            _measured(found, "loss"),
            {"best": "lowest", "unit": "cross-entropy, nats", "may_log": True},
        ),
        (
            ACCURACY,
            _measured(found, "accuracy"),
            {"best": "highest", "kind": "percent", "unit": "share of the images"},
        ),
        (
            RATE,
            [Series("learning rate", rate)],
            {"best": "highest", "from_zero": True, "unit": "scales each update"},
        ),
        (
            SPEED,
            [speed],
            {"best": "highest", "from_zero": True, "unit": "images per second, all workers"},
        ),
    ):
        key = title.lower().replace(" ", "-")
        options |= {"marks": marks, "epochs": found.points("epoch")}
        if any(each.points for each in series):
            made.append((title, charts.line(key, title, series, **options)))
        elif title == RATE and isinstance(found.learning_rate, str):
            made.append((title, found.learning_rate))
        else:
            made.append((title, reason))
    return made


def validation_note(found: Facts) -> str:
    """Return in a sentence why there is no curve of validations; nothing if there is one."""
    if len(found.points("validation_accuracy")) > 1:
        return ""
    if found.stored.get("validation") == 0:
        return "No images were set apart for validation (validation is 0)."
    if found.stored.get("eval_epochs") == 0:
        ended = "only at the end" if found.result else "at its end"
        return f"The run validates {ended} (eval_epochs is 0), so there is no curve of it."
    return ""


def _measured(found: Facts, metric: str) -> list[Series]:
    """Return training, validation and test of "loss" or "accuracy"."""
    validation = found.points(f"validation_{metric}")
    step = found.of_result("selected_step")
    last, test = found.of_result(f"validation_{metric}"), found.of_result(f"test_{metric}")
    if not validation and step is not None and last is not None:
        validation = ((step, last),)
    return [
        Series("training", found.points(metric)),
        Series("validation", validation, "series-2", dots=1 < len(validation) <= 30),
        Series("test", () if step is None or test is None else ((step, test),), "series-3"),
    ]


def cells(quality: Quality) -> list[list[Cell]]:
    """Return the confusion matrix shaded on two scales: shares on the diagonal, counts off it."""
    matrix = quality.matrix
    most = max(1, int((matrix - np.diag(np.diag(matrix))).max()))
    return [
        [
            Cell(int(count), "hit", float(quality.recall[i]))
            if i == j
            else Cell(int(count), "miss" if count else "none", (int(count) / most) ** 0.5)
            for j, count in enumerate(row)
        ]
        for i, row in enumerate(matrix)
    ]


def gallery(found: Facts) -> list[Picture] | str:
    """Return the most confidently wrong test images, or why there are none to show."""
    if isinstance(found.quality, str):
        return found.quality
    if isinstance(found.images, str):
        return found.images
    if not found.quality.wrong:
        return "The model predicted every test image right."
    images = found.images[0]
    return [
        Picture(html.png(images[wrong.index : wrong.index + 1]), wrong)
        for wrong in found.quality.wrong
    ]


def samples(found: Facts) -> list[tuple[int, int, str]] | str:
    """Return class, number of images and these in a row, or why there are none."""
    if isinstance(found.images, str):
        return found.images
    images, labels = found.images
    first = ((int(label), np.flatnonzero(labels == label)[:SAMPLES]) for label in np.unique(labels))
    return [(label, len(places), html.png(images[places])) for label, places in first]


def looked_up(found: Facts) -> dict[str, Any] | str:
    """Return the test images that can be looked up, see ``lookup.panel``, or why there are none."""
    if isinstance(found.predictions, str):
        return found.predictions
    if isinstance(found.images, str):
        return found.images
    if not len(found.predictions.labels):
        return "The dataset has no test images."
    return lookup.panel(found.predictions, found.images[0])


def _names(found: Facts) -> list[str]:
    classes = 0 if isinstance(found.predictions, str) else found.predictions.logits.shape[1]
    return [class_name(label, found.class_names, 40, cell_len) for label in range(classes)]


def calibration(quality: Quality) -> Chart:
    """Return the reliability diagram."""
    bins = [(each.confidence, each.accuracy, *each.interval) for each in quality.bins]
    return charts.reliability("reliability", "Reliability diagram", bins, calibrated(quality))


def calibrated(quality: Quality) -> str:
    """Return in words how far the model's probabilities can be trusted."""
    gap = quality.confidence - quality.accuracy
    error = classification.calibration_error(quality.bins)
    sure = "overconfident" if gap > 0 else "underconfident"
    judgement = "well calibrated on average" if abs(gap) < 0.005 else sure
    return (
        f"The model gives its predictions a probability of {quality.confidence:.1%} on average, "
        f"and {quality.accuracy:.1%} of them are right: it is {judgement}. The expected "
        f"calibration error is {100 * error:.1f} points, by which a probability is off on average."
    )


def epochs_done(found: Facts) -> float | None:
    """Return the passes over the training images so far."""
    return found.of_result("epochs") or found.last("epoch")


def _workers(found: Facts) -> int:
    start = {} if isinstance(found.start, str) else found.start
    return int(number(start.get("workers")) or found.of_result("workers") or 1)


def settings(stored: Mapping[str, Any], epochs: float | None = None) -> list[Setting]:
    """Return the settings of a run in the order of --help, unknown ones at the end.

    ``epochs``: that have been trained; they stand in the place of a setting that steps overrule.
    """
    if stored.get("steps") and "epochs" in stored:
        rounded = "none yet" if epochs is None else float(f"{epochs:.4g}")
        stored = {**stored, "epochs": rounded}
    known = TrainConfig.model_fields
    names = [*(name for name in known if name in stored), *sorted(stored.keys() - known.keys())]
    others = {*run_folder.INFORMATIONAL, "data_sha256"}
    return [
        Setting(
            name,
            value_text(stored[name]),
            value_text(known[name].default) if name in known else "",
            known[name].description or "" if name in known else "",
            name not in known or stored[name] != known[name].default,
        )
        for name in names
        if name not in others
    ]


def data_rows(found: Facts) -> list[tuple[str, str]]:
    """Return name and value of what is known of the dataset."""
    stored = found.stored
    rows = [("folder", value_text(stored.get("data"))), ("SHA-256", stored.get("data_sha256"))]
    shape = stored.get("input_shape")
    if isinstance(shape, list):
        rows.append(("images", "x".join(map(value_text, shape)) + " (height, width, channels)"))
    rows.append(("classes", stored.get("classes")))
    if isinstance(found.quality, Quality):
        rows.append(("test images", found.quality.images))
    return [(name, value_text(value)) for name, value in rows if value is not None]


def run_rows(found: Facts) -> list[tuple[str, str]]:
    """Return name and value of when, where and on what the run trained."""
    start = {} if isinstance(found.start, str) else found.start
    attempts = () if isinstance(found.attempts, str) else found.attempts
    began = attempts[0].start if attempts else number(start.get("started"))
    rows = []
    if began is not None and 0 <= began <= 2e11:
        rows.append(("started", f"{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M:%S} UTC"))
    if start:
        rows.append(("computed on", run_folder.device_line(start)))
    if start or found.result:
        sizes = reader.sizes(attempts)
        changes = "".join(f", {workers} from step {step:,}" for step, workers in sizes[1:])
        rows.append(("workers", f"{sizes[0][1]}{changes}" if changes else str(_workers(found))))
    if isinstance(start.get("commit"), str):
        rows.append(("commit", start["commit"]))
    return rows


def time_rows(found: Facts) -> list[tuple[str, str]]:
    """Return what a run's time went into, and seconds with their share; empty if not known."""
    if found.spent is None or found.spent.wall <= 0:
        return []
    parts = [("steps that count", found.spent.productive), *found.spent.lost.items()]
    return [(name, f"{s:,.1f} s, {s / found.spent.wall:.1%}") for name, s in parts if s >= 0.05]


def layer_rows(found: Facts) -> list[tuple[str, str, str, str]]:
    """Return name, type, output shape and weights of each layer, and their sum."""
    listed = None if isinstance(found.start, str) else found.start.get("model")
    layers = (
        [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    )
    rows = []
    for layer in layers[:MOST_LAYERS]:
        shape, weights = layer.get("output"), number(layer.get("weights"))
        rows.append(
            (
                value_text(layer.get("name")),
                value_text(layer.get("type")),
                "x".join(map(value_text, shape)) if isinstance(shape, list) else "",
                "" if weights is None else f"{weights:,.0f}",
            )
        )
    total = sum(number(layer.get("weights")) or 0 for layer in layers)
    return [*rows, ("all", "", "", f"{total:,.0f}")] if rows else []


def rank_rows(found: Facts) -> list[tuple[int, str, str]]:
    """Return rank, peak memory and processor seconds of each worker's last attempt."""
    listed = None if isinstance(found.result, str) else found.result.get("ranks")
    rows = []
    for place, each in enumerate(listed if isinstance(listed, list) else ()):
        values = each if isinstance(each, Mapping) else {}
        rank = number(values.get("rank"))
        memory = number(values.get("peak_memory_bytes"))
        seconds = number(values.get("cpu_seconds"))
        rows.append(
            (
                place if rank is None else int(rank),
                "" if memory is None else size(memory),
                "" if seconds is None else f"{seconds:,.1f}",
            )
        )
    return rows[:MOST_RANKS]


def result_rows(result: Mapping[str, Any] | str) -> list[tuple[str, str]] | str:
    """Return name and value of what result.json says, versions among them, or why nothing."""
    if isinstance(result, str):
        return result
    if not result:
        return facts.UNFINISHED
    versions = result.get("versions")
    flat = {**result, **({} if not isinstance(versions, Mapping) else versions)}
    for name in ("ranks", "goodput", "wall_seconds", "lost_seconds"):  # have tables of their own
        flat.pop(name, None)
    if isinstance(versions, Mapping):
        flat.pop("versions")
    words = {"train_accuracy_images": "images of the train accuracy"}
    return [
        (words.get(name, name.replace("_", " ")), value_text(value, name))
        for name, value in flat.items()
    ]


def value_text(value: Any, name: str = "") -> str:
    """Return a JSON value for people."""
    finite = number(value)
    if finite is not None:
        if name.endswith("accuracy"):
            return f"{finite:.2%}"
        return str(value) if isinstance(value, int) else f"{finite:.6g}"
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values()):
        return ", ".join(f"{key.replace('_', ' ')} {each}" for key, each in value.items())
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else json.dumps(value)
