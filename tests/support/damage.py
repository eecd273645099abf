"""Run folders damaged at random, in every file, by accident and with intent.

``make`` writes a good folder of a finished run, which every verb can read, and ``damage`` spoils
copies of it. What a digest protects is signed again, as somebody with intent would.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from tests.support.folders import attempt, make_run, metric_lines
from tests.support.names import HARD
from trainer.config import parse
from trainer.data import dataset
from trainer.runs import checkpoint, predictions, run_folder, tensorboard_format, tensorboard_writer
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.predictions import Predictions
from trainer.storage.local import LocalStorage

Random = random.Random
VALIDATION = 10  # images
SECRET = "secret-of-another-folder"
HOSTILE_TEXT = (
    "",
    "\x1b]0;owned\x07\x1b[2J\x1b[31m",
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>",
    "\u202egnp.exe \u2066",
    "\ud800",
    "a\nb\r\nc\x00\x9b1m",
    "{{ 7*7 }}{% raw %}",
    "tests.mark:leave",
    "../../../etc/passwd",
    "gs://no-such-bucket-of-anybody/x",
    "x" * 5000,
    "9" * 5000,
)
NUMBERS = (
    *(float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 5e-324, 1e15, -0.5, 0.5, 1e-9),
    *(0, -1, 1, 2, 10, 255, 257, 100_000, -100_000, 2**31, 2**53, 2**63, 2**64, 10**30, 10**400),
)
JSON = (run_folder.CONFIG, run_folder.RESULT, run_folder.ARCHITECTURE)
LINES = (run_folder.METRICS, run_folder.rank_metrics(1), run_folder.ATTEMPTS)
POINT = checkpoint.object_name(1000)
EVENTS = (
    tensorboard_writer.step_name("train", 1000),
    tensorboard_writer.object_name(tensorboard_writer.SETTINGS),
)


def make(folder: Path, model: str | None = None) -> Path:
    """Write a finished run on drawn images of 8 x 8, with a model that predicts."""
    from trainer.train import models, optimizers

    where = make_run(folder, class_names=HARD, preset="softmax", model=model, validation=VALIDATION)
    config = parse({"preset": "softmax", "model": model})
    built, slots = models.build(config, (8, 8, 1), 10), optimizers.create(config).slots
    parameters, buffers = built.trainable_variables, built.non_trainable_weights
    for variable in parameters:
        variable.assign(np.random.default_rng(1).normal(0, 0.1, variable.shape))
    arrays = {f"parameters/{each.path}": each.numpy() for each in parameters}
    arrays |= {f"{slot}/{each.path}": each.numpy() for slot in slots for each in parameters}
    arrays |= {f"buffers/{each.path}": each.numpy() for each in buffers}
    storage = LocalStorage(str(where))
    data = dataset.load(str(folder / "data"), 0)
    stored = json.loads((where / run_folder.CONFIG).read_bytes()) | {"data_sha256": data.sha256}
    storage.replace(run_folder.CONFIG, run_folder.pretty(stored))
    images, labels = data.test.images, data.test.labels
    logits = np.asarray(built(images, training=False))
    found = Predictions(1000, predictions.images_sha256(images), logits, labels)
    storage.replace(run_folder.PREDICTIONS, predictions.encode(found))
    point = Checkpoint(1000, arrays, _digest(stored), ((200, 0.5), (1000, 0.9)))
    storage.replace(POINT, checkpoint.encode(point))
    storage.replace(run_folder.ARCHITECTURE, built.to_json().encode())
    storage.replace(run_folder.rank_metrics(1), run_folder.lines(metric_lines(900)))
    attempts = [attempt(1, 0, 400, "lost a peer"), attempt(2, 400, 1000, None)]
    storage.replace(run_folder.ATTEMPTS, run_folder.lines(attempts))
    storage.replace(
        EVENTS[0],
        tensorboard_format.steps({1000: [tensorboard_format.scalar("loss", 0.5)]}, {1000: 1.7e9}),
    )
    storage.replace(EVENTS[1], tensorboard_format.settings({"seed": 1}, "run", 1.7e9))
    return where


def damage(good: Path, target: Path, rng: Random) -> str:
    """Copy a good run, damage the copy and return in words how."""
    shutil.copytree(good, target)
    done = [_one(target, rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    if rng.random() < 0.1:  # last, as what it leaves is not to be read here
        done.append(rng.choice([_change_place, _change_place, _grow])(target, rng))
    return "; ".join(done)


def _one(folder: Path, rng: Random) -> str:
    ways: tuple[Callable[[Path, Random], str], ...] = (
        *([_change_json] * 8),
        *([_change_lines] * 5),
        *([_change_bytes] * 6),
        *([_change_tensors] * 4),
        *([_change_header] * 3),
    )
    return rng.choice(ways)(folder, rng)


def _any_file(folder: Path, rng: Random) -> Path:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return rng.choice(files) if files else folder / run_folder.CONFIG


def _change_bytes(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    data = path.read_bytes() if path.is_file() else b""
    way = rng.choice(["flip", "cut", "cut", "extend", "empty", "noise", "swap", "delete"])
    if way == "flip" and data:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 3, 50])):
            changed[rng.randrange(min(len(data), rng.choice([8, 300, 1 << 30])))] ^= 1 << (
                rng.randrange(8)
            )
        data = bytes(changed)
    elif way == "cut":
        data = data[: rng.randrange(len(data) + 1)]
    elif way == "extend":
        data += rng.choice([b"\0" * 9, b"\n\n{}", b"[" * 100_000, data, rng.randbytes(50)])
    elif way == "swap":
        data = _any_file(folder, rng).read_bytes()
    elif way == "delete":
        path.unlink(missing_ok=True)
        return f"{path.name}: deleted"
    else:
        data = b"" if way == "empty" else rng.randbytes(rng.randrange(3000))
    path.write_bytes(data)
    return f"{path.name}: {way}"


def _hostile(rng: Random) -> Any:
    kind = rng.randrange(10)
    if kind < 5:
        return rng.choice(NUMBERS)
    if kind < 8:
        return rng.choice(HOSTILE_TEXT)
    deep: Any = 0
    for _ in range(rng.choice([15, 100, 300, 900])):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    some = rng.choice(NUMBERS)
    many: list[Any] = [{}, [], None, True, False, deep, [some] * 3, [[some]], {"message": some}]
    return rng.choice(many)


def _spoil(value: Any, rng: Random) -> str:
    """Change a JSON value somewhere inside and return where."""
    place, trail = value, list[str]()
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys or (isinstance(place, dict) and rng.random() < 0.05):
            name = rng.choice([*HOSTILE_TEXT, "step", "loss", "model", "extra"])
            if isinstance(place, dict):
                place[name] = _hostile(rng)
            else:
                place.append(_hostile(rng))
            return f"{'.'.join(trail)} got {name[:20]!r}"
        key = rng.choice(keys)
        trail.append(str(key))
        inner = place[key]
        if isinstance(inner, dict | list) and rng.random() < 0.8:
            place = inner
            continue
        if isinstance(place, dict) and rng.random() < 0.15:
            del place[key]
            return f"{'.'.join(trail)} gone"
        place[key] = _hostile(rng)
        return f"{'.'.join(trail)} = {str(place[key])[:40]!r}"


def _change_json(folder: Path, rng: Random) -> str:
    name = rng.choice([run_folder.CONFIG, run_folder.CONFIG, *JSON])
    try:
        values = json.loads((folder / name).read_bytes())
        trail = _spoil(values, rng)
        (folder / name).write_text(json.dumps(values))
    except (OSError, ValueError, TypeError, RecursionError):
        return f"{name}: no longer JSON"
    if name == run_folder.CONFIG and rng.random() < 0.9:
        sign(folder, lambda point: point)
    return f"{name}: {trail}"


def _change_lines(folder: Path, rng: Random) -> str:
    name = rng.choice([run_folder.METRICS, *LINES])
    try:
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        way = rng.choice(["one", "one", "all", "shuffled", "repeated"])
        trail = ""
        if way == "shuffled":
            rng.shuffle(lines)
        elif way == "repeated":
            lines *= rng.choice([2, 50])
        else:
            state = rng.getstate()
            for line in lines if way == "all" else [rng.choice(lines)]:
                if way == "all":
                    rng.setstate(state)  # the same in each
                trail = _spoil(line, rng)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    except (OSError, ValueError, TypeError, IndexError, RecursionError):
        return f"{name}: no longer lines"
    if rng.random() < 0.5:
        (folder / run_folder.RESULT).unlink(
            missing_ok=True
        )  # or the tail of another rank is not read
    return f"{name}: {way} {trail}"


def _digest(stored: dict[str, Any]) -> str:
    return run_folder.digest(
        {name: value for name, value in stored.items() if name not in run_folder.INFORMATIONAL}
    )


def sign(folder: Path, change: Callable[[Checkpoint], Checkpoint]) -> None:
    """Change the checkpoint and make it one of the folder's run, whatever that says."""
    try:
        digest = _digest(json.loads((folder / run_folder.CONFIG).read_bytes()))
        point = checkpoint.decode((folder / POINT).read_bytes(), "it")
    except Exception:  # something before has spoilt it
        return
    point = change(point)
    point = Checkpoint(point.step, point.arrays, digest, point.validations)
    (folder / POINT).write_bytes(checkpoint.encode(point))


def _change_tensors(folder: Path, rng: Random) -> str:
    """Change the checkpoint's state, or the predictions, with a digest that fits."""
    if rng.random() < 0.4:
        name = run_folder.PREDICTIONS
        try:
            arrays = safetensors.numpy.load((folder / name).read_bytes())
            facts = json.loads(
                json.loads(_header((folder / name).read_bytes()))["__metadata__"][KEY]
            )
            trail = _spoil(facts, rng) if rng.random() < 0.5 else _spoil_arrays(arrays, rng)
            metadata = {KEY: json.dumps(facts)}
            (folder / name).write_bytes(safetensors.numpy.save(arrays, metadata))
        except Exception:
            return f"{name}: no longer tensors"
        return f"{name}: {trail}"
    trail = ""

    def change(point: Checkpoint) -> Checkpoint:
        nonlocal trail
        arrays, step, validations = dict(point.arrays), point.step, point.validations
        if rng.random() < 0.7:
            trail = _spoil_arrays(arrays, rng)
        elif rng.random() < 0.5:
            step = _hostile(rng)
        else:
            validations = rng.choice(
                [((_hostile(rng), 0.5),), ((500, _hostile(rng)),), _hostile(rng)]
            )
        return Checkpoint(step, arrays, point.config_digest, validations)

    try:
        sign(folder, change)
    except Exception:
        return f"{POINT}: cannot be written so"
    return f"{POINT}: signed {trail}"


def _spoil_arrays(arrays: dict[str, Any], rng: Random) -> str:
    name = rng.choice(sorted(arrays)) if arrays else "logits"
    array = arrays.pop(name, np.zeros((2, 2), np.float32))
    way = rng.choice(["gone", "values", "shape", "dtype", "name", "more", "empty"])
    if way == "values":
        array = np.full_like(array, rng.choice([float("nan"), float("inf"), -1, 0, 1e30, 300]))
    elif way == "shape":
        array = rng.choice([array.ravel(), array[None], array.T, array[:1], np.zeros((0, 7))])
    elif way == "dtype":
        array = array.astype(rng.choice(["float64", "float16", "int64", "uint8", "bool"]))
    elif way == "name":
        name = rng.choice([*HOSTILE_TEXT[:4], "parameters/", "buffers/x", name * 30])
    elif way == "more":
        array = np.zeros((3000, 300), array.dtype)
    elif way == "empty":
        array = np.zeros((0, *array.shape), array.dtype)
    if way != "gone":
        arrays[name.encode(errors="replace").decode()] = np.ascontiguousarray(array)
    return f"{name[:40]!r} {way}"


KEY = "trainyard"


def _header(data: bytes) -> bytes:
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def _change_header(folder: Path, rng: Random) -> str:
    """Change the header of safetensors, with a digest that fits where there is one."""
    path = folder / rng.choice([POINT, run_folder.PREDICTIONS])
    try:
        data = path.read_bytes()
        header = json.loads(_header(data))
        body = data[8 + len(_header(data)) :]
    except (OSError, ValueError, RecursionError):
        return f"{path.name}: no header"
    size = None
    way = rng.choice(["spoil", "spoil", "size", "deep", "many"])
    if way == "spoil":
        way += " " + _spoil(header, rng)
        try:
            text = json.dumps(header).encode()
        except (ValueError, RecursionError):
            return f"{path.name}: no JSON"
    elif way == "size":
        text = json.dumps(header).encode()
        size = rng.choice([0, 1, len(text) - 1, len(text) + 1, 2**31, 2**63, 2**64 - 1])
    elif way == "deep":
        text = b'{"__metadata__":' + b"[" * 50_000
    else:
        text = json.dumps({f"t{k}": header.get("labels", {}) for k in range(2000)}).encode()
    size = len(text) if size is None else size
    unsigned = size.to_bytes(8, "little") + text + body
    try:
        facts = json.loads(header["__metadata__"][KEY])
        signature = str(facts["sha256"]).encode()
        blank = unsigned.replace(signature, b"0" * 64, 1)
        unsigned = blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)
    except (KeyError, TypeError, ValueError):
        pass
    path.write_bytes(unsigned)
    return f"{path.name}: header {way}"


def _change_place(folder: Path, rng: Random) -> str:
    """Put something else in the place of a file, or of a folder of them."""
    path = _any_file(folder, rng)
    outside = folder.parent / SECRET
    outside.mkdir(exist_ok=True)
    (outside / path.name).write_text(json.dumps({"step": 1, "train_seconds": 0, SECRET: SECRET}))
    way = rng.choice(
        ["link", "link", "folder link", "circle", "folder", "pipe", "device", "nowhere"]
    )
    if way == "folder link":
        inner = [each for each in folder.iterdir() if each.is_dir() and not each.is_symlink()]
        if not inner:
            return "no folder"
        path = rng.choice(sorted(inner))
        shutil.rmtree(path)
        path.symlink_to(outside)
        return f"{path.name}: {way}"
    path.unlink(missing_ok=True)
    if way == "folder":
        path.mkdir()
    elif way == "pipe":
        os.mkfifo(path)
    else:
        targets = {"link": outside / path.name, "circle": path, "device": Path("/dev/zero")}
        path.symlink_to(targets.get(way, folder / "nowhere"))
    return f"{path.name}: {way}"


def _grow(folder: Path, rng: Random) -> str:
    """Make a file of a size that no machine can hold; it has holes, and takes no room."""
    path = _any_file(folder, rng)
    with path.open("ab") as file:
        file.truncate(rng.choice([1 << 28, 1 << 33, 1 << 40]))
    return f"{path.name}: huge"
