"""The run's folder: which run it belongs to, its metrics, and how it ended."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import failure
from trainer.common.text import printable
from trainer.common.untrusted_json import json_object
from trainer.config import LEGACY_DEFAULTS, TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.runs import user_code
from trainer.storage import probe
from trainer.storage.base import ObjectNotFoundError, Storage, open_storage, read_at_most

CONFIG = "config.json"
METRICS = "metrics.jsonl"
ATTEMPTS = "attempts.jsonl"
START = "start.json"  # of the newest command: when, where, on what
RANKS = "ranks.json"
RESULT = "result.json"
NEXT = "next-"  # begins the name of what keeps a refused run's folder for the run after it
PREDICTIONS = "predictions.safetensors"
ARCHITECTURE = "model/architecture.json"
REPORT = "report.html"

# What a file of a folder that anybody may have written can be at most. A line of metrics is about
# 150 bytes.
MOST_OBJECT = 1 << 19  # bytes of CONFIG and of RESULT
MOST_DEPTH = 20  # of lists and objects in each other there
MOST_METRICS = 1 << 27  # bytes
MOST_LINES = 1_000_000  # of metrics
MOST_ATTEMPTS = 1 << 24  # bytes
MOST_STARTS = 10_000  # commands of a run that START lists
MOST_STEPS = 1 << 53  # up to which every integer is a float

COMMIT = "TRAINYARD_COMMIT"  # variable with the commit of the project that trains

_SAID_AT_THE_END = ("test_accuracy", "test_loss", "steps", "train_seconds", "images_per_second")

# In config.json for its readers; two runs that differ in these alone are the same.
INFORMATIONAL = ("data", "input_shape", "classes", "class_names")


def open_folder(uri: str) -> Storage:
    """Return a run's folder to read what anybody may have put there; no link leads out of it.

    Raises:
        ConfigError, UnavailableError: see ``open_storage``.
    """
    return open_storage(uri, links=False)


def has(storage: Storage, name: str) -> bool:
    """Return whether a run's folder has an object of this name."""
    return any(entry.name == name for entry in storage.list(name))


def gang_key(service: str) -> str:
    """Return the name of a gang's key in the run's folder, in which two gangs may work."""
    return f"gang-{service}.key"


def is_gang_key(name: str) -> bool:
    """Return whether an object of the folder is a gang's key, which is for its members alone."""
    return bool(re.fullmatch(r"gang-[^/]*\.key", name))


def digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, independent of the order of their names."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def uri(config: TrainConfig) -> str:
    """Return the run folder's URI with its {preset} and {digest} filled in."""
    return config.run.replace("{preset}", config.preset).replace(
        "{digest}", digest(config.identity())[:8]
    )


def claim(
    storage: Storage,
    config: TrainConfig,
    data_sha256: str,
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    code: user_code.Archive | None = None,
    class_names: Sequence[str] = (),
    *,
    begins: bool = False,
) -> str:
    """Make the folder this run's, or check that it is, and return the digest of what decides it.

    The folder of a run that was refused before its first step goes to whoever comes next, with
    corrected settings or the same.

    Args:
        storage: the run's folder.
        config: its settings.
        data_sha256: of its dataset.
        input_shape: height, width and channels of the data's images, for readers.
        classes: of the data, for readers.
        code: that the configuration names; the folder keeps it.
        class_names: of the data, for readers; empty if the classes have none.
        begins: whether the gang begins with this.

    Raises:
        ConfigError: the folder belongs to a run with other settings or other data, or holds
            files of something else; or it is new, and its store must not have a run.
    """
    wanted = _decisive(config, data_sha256)
    informational: dict[str, Any] = {
        "data": from_anywhere(config.data),
        "input_shape": input_shape,
        "classes": classes,
    }
    if class_names:
        informational["class_names"] = class_names
    stored = pretty({**wanted, **informational})
    existing = read_config(storage)
    if existing is None:
        existing = _begin(storage, stored)
    if existing is not None:
        conflict = _conflict(storage, existing, config, data_sha256, code)
        if not conflict:
            wanted = _decisive(config, data_sha256, existing)
        if conflict or begins:
            _follow(storage, digest(wanted), conflict)
        if conflict:
            storage.replace(CONFIG, stored)
            old = str(existing.get("code"))
            if old != wanted.get("code") and user_code.is_packed(old):
                storage.delete(user_code.object_name(old))
    if code and "code" in wanted:
        code.store(storage)
    return digest(wanted)


def _begin(storage: Storage, stored: bytes) -> dict[str, Any] | None:
    """Store the settings in a folder that has none, or return those of a peer that was faster."""
    _check_new(storage)
    probe.check_at_start(storage)
    return None if storage.create(CONFIG, stored) else read_config(storage) or {}


def _check_new(storage: Storage) -> None:
    """Check that a folder without settings holds nothing of something else."""
    names = _names(storage)
    if names and CONFIG not in names:  # a peer may have written it by now
        raise ConfigError(
            f"run: {storage.uri}: holds {names[0]!r} but no {CONFIG}, so it is no run's folder;"
            " give an empty or new one"
        )


def _follow(storage: Storage, ours: str, conflict: ConfigError | None) -> None:
    """Follow a run that was refused, as the only one of those that may come at the same moment.

    Args:
        storage: the folder; without a conflict, it need not be a refused run's.
        ours: the digest of our settings.
        conflict: what tells the run there from ours.
    """
    refused = _refused(storage)
    if refused is None:
        if conflict:
            raise conflict
        return
    name = _of_next(refused[0])
    if not storage.create(name, ours.encode()) and read_at_most(storage, name, 64) != ours.encode():
        raise conflict or ConfigError(
            f"run: {storage.uri}: a run with other settings has just begun there; "
            "give another run folder"
        )


def keep(storage: Storage, settings: Mapping[str, Any]) -> None:
    """Store a run's settings again if somebody has deleted its folder while it trains.

    Without them, nobody could read what it stores from then on.

    Raises:
        ConfigError: another run has begun in the folder since.
    """
    existing = read_config(storage)
    if existing is None:
        storage.create(CONFIG, pretty(settings))
    elif any(
        existing.get(key) != settings.get(key)
        for key in (existing.keys() | settings.keys()) - {*INFORMATIONAL}
    ):
        raise ConfigError(
            f"run: {storage.uri}: was deleted while this run trained, and another run has begun "
            "there; give one of them another run folder"
        )


def check(
    storage: Storage, config: TrainConfig, data_sha256: str, code: user_code.Archive | None
) -> None:
    """Check that ``claim`` finds no other run in the folder, which stays as it is.

    Raises:
        ConfigError: it belongs to a run with other settings or other data, or holds files of
            something else.
    """
    existing = read_config(storage)
    if existing is None:
        _check_new(storage)
    conflict = existing and _conflict(storage, existing, config, data_sha256, code)
    if conflict and refusal(storage) is None:
        raise conflict


def refusal(storage: Storage) -> failure.Failure | None:
    """Return why the folder's run ended before its first step; None if it did not, or resumed."""
    refused = _refused(storage)
    return refused[1] if refused and not has(storage, _of_next(refused[0])) else None


def _decisive(
    config: TrainConfig, data_sha256: str, existing: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what decides a run's weights, as far as the folder of the same run knows it."""
    wanted = {**config.identity(), "data_sha256": data_sha256}
    if existing and "code" not in existing and existing.get("model"):
        wanted.pop("code", None)  # of a version that kept no code
    return wanted


def _conflict(
    storage: Storage,
    existing: Mapping[str, Any],
    config: TrainConfig,
    data_sha256: str,
    code: user_code.Archive | None,
) -> ConfigError | None:
    """Return in what the run that the folder belongs to is another one, None if it is not."""
    decisive = {key: value for key, value in existing.items() if key not in INFORMATIONAL}
    there = {**LEGACY_DEFAULTS, **decisive}
    here = {**LEGACY_DEFAULTS, **_decisive(config, data_sha256, existing)}
    differing = [
        f"{key} ({_short(there.get(key))} there, {_short(here.get(key))} here)"
        if key != "code" or not code
        else f"code ({_changed(storage, there.get(key), code)})"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    if not differing:
        return None
    return _refusal(storage, differing, existing.get("data"), from_anywhere(config.data))


def _refused(storage: Storage) -> tuple[bytes, failure.Failure] | None:
    """Return the attempts of a run that was refused before its first step, and the cause.

    Neither a Job nor a gang starts it again then. None of another run.
    """
    names = _names(storage)
    if ATTEMPTS not in names or not {*names} <= {CONFIG, ATTEMPTS, RANKS}:
        return None
    try:
        attempts = read_at_most(storage, ATTEMPTS, MOST_ATTEMPTS)
    except ObjectNotFoundError:
        return None
    last = json_object(next(iter(attempts.splitlines()[-1:]), b"")) or {}
    cause = failure.parse(last.get("cause"))
    if cause and cause.kind in ("config", "data") and last.get("over") is True:
        return attempts, cause
    return None


def _of_next(attempts: bytes) -> str:
    """Return the name of the object that names the run after these attempts of a refused one.

    It holds the digest of that run's settings, and only one of several runs can create it.
    """
    return f"{NEXT}{hashlib.sha256(attempts).hexdigest()[:16]}"


def _names(storage: Storage) -> list[str]:
    """Return the names of what is there, but for what may be there before the run is."""
    early = ("logs/", f"{user_code.FOLDER}/", probe.PREFIX, NEXT)
    return [entry.name for entry in storage.list() if not entry.name.startswith(early)]


def _refusal(storage: Storage, differing: list[str], there: object, here: str) -> ConfigError:
    """Return what to do about the settings that differ, of runs on the data there and here."""
    if len(differing) > 1 or not differing[0].startswith("data_sha256 "):
        kind, remedy = "with other settings", "give another run folder or the same settings"
    elif there == here:
        kind = "on other data"
        remedy = (
            f"{printable(here)} has changed since; put the old data back, or give another run "
            "folder"
        )
    else:
        kind = "on other data"
        remedy = f"give another run folder, or its data: {printable(str(there))}"
    return ConfigError(
        f"run: {storage.uri}: belongs to a run {kind}: {', '.join(differing)}; {remedy}"
    )


def _changed(storage: Storage, reference: object, code: user_code.Archive) -> str:
    """Return which files of a run's code differ from those here."""
    before = user_code.EMPTY
    if isinstance(reference, str) and user_code.is_packed(reference):
        before = user_code.fetch(storage, reference)
    return user_code.few(user_code.changes(before, code.data))


def read_config(storage: Storage) -> dict[str, Any] | None:
    """Return the settings the folder belongs to, or None where there are none.

    Raises:
        DataError: the object is damaged.
    """
    return _read_object(storage, CONFIG)


def config(storage: Storage) -> dict[str, Any]:
    """Return the settings of a run.

    Raises:
        ConfigError: the folder is no run's.
        DataError: the object is damaged.
    """
    stored = read_config(storage)
    if stored is None:
        raise ConfigError(f"run: {storage.uri}: no {CONFIG} there; give the folder of a run")
    return stored


def read_start(storage: Storage) -> dict[str, Any] | None:
    """Return when and on what the newest command trains, None if it is not known.

    Raises:
        DataError: the object is damaged.
    """
    return _read_object(storage, START)


def starts(start: Mapping[str, Any]) -> list[float]:
    """Return when the commands of a run began, by its start.json; seconds since the epoch."""
    listed = start.get("starts")
    found: list[Any] = listed if isinstance(listed, list) else [start.get("started")]
    return [float(at) for at in found if isinstance(at, int | float) and 0 <= at <= 2e11]


def device_line(start: Mapping[str, Any]) -> str:
    """Return device, threads and how steps are computed, by start.json, as a run prints them."""
    parts = [
        f"device: {start.get('device')}",
        f"threads: {start.get('threads')}",
        f"XLA: {'on' if start.get('xla') else 'off'}",
        f"layers: {start.get('layers')}",
    ]
    count, workers = start.get("microbatches"), start.get("workers")
    if isinstance(count, int) and count > 1:
        parts[-1] += f" in {count} microbatches"
    if isinstance(workers, int) and workers > 1:
        parts.append(f"all-reduce: {start.get('all_reduce')}")
    return ", ".join(parts)


def read_result(storage: Storage) -> dict[str, Any] | None:
    """Return how the run ended, or None while it has not.

    Raises:
        DataError: the object is damaged.
    """
    return _read_object(storage, RESULT)


def find_result(storage: Storage, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Return how the run ended, or None while it has not; so also, with a warning, for damage.

    Training then makes the result again, from the newest checkpoint.
    """
    try:
        result = read_result(storage)
        for name in _SAID_AT_THE_END:
            if result is not None and not isinstance(result.get(name), int | float):
                raise DataError(f"{storage.uri}/{RESULT}: damaged: {name} is no number")
    except DataError as error:
        warn(f"{error}; making it from the newest checkpoint")
        return None
    return result


def rank_metrics(rank: int) -> str:
    """Return the name of the metrics that one rank stored when it lost a peer."""
    return f"metrics-rank-{rank}.jsonl"


def read_metrics(
    storage: Storage, until: int, warn: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """Return the metrics lines of steps up to ``until``; those after are done again.

    Where rank 0 died, the lines that it had not stored come from another rank. ``warn`` is called
    for damaged lines, which are left out then.

    Raises:
        DataError: an object is damaged, and nobody is warned.
    """
    records = _read_lines(storage, METRICS, until, warn)
    last = records[-1]["step"] if records else 0
    others = [
        entry.name
        for entry in (storage.list("metrics-rank-") if last < until else ())
        if re.fullmatch(r"metrics-rank-\d{1,4}\.jsonl", entry.name)
    ]
    tails = (_read_lines(storage, name, until, warn) for name in others)
    missing = ([line for line in tail if line["step"] > last] for tail in tails)
    return records + max(missing, key=len, default=[])


def _read_lines(
    storage: Storage, name: str, until: int, warn: Callable[[str], None] | None
) -> list[dict[str, Any]]:
    try:
        lines = read_at_most(storage, name, MOST_METRICS).splitlines()
        if len(lines) > MOST_LINES:
            raise DataError(f"{storage.uri}/{name}: damaged: more than {MOST_LINES:,} lines")
        found = [each for line in lines if (each := metrics_line(line))]
        damaged = len(lines) - len(found)
        if damaged and warn is None:
            raise DataError(f"{storage.uri}/{name}: damaged: must be one JSON object a line")
    except ObjectNotFoundError:
        return []
    except (DataError, ConfigError) as error:
        if warn is None:
            raise DataError(f"{error}; delete it") from None
        warn(f"{error}; continuing without these metrics")
        return []
    if damaged and warn:
        warn(
            f"{storage.uri}/{name}: {damaged} of {len(lines)} lines are damaged; "
            "continuing without their metrics"
        )
    return [line for line in found if line["step"] <= until]


def metrics_line(line: bytes) -> dict[str, Any] | None:
    """Return a line's values, or None where it is damaged."""
    values = json_object(line) or {}
    step, seconds = values.get("step"), values.get("train_seconds", 0.0)
    whole = type(step) is int and 0 <= step <= MOST_STEPS
    # False for NaN, too.
    timed = type(seconds) in (int, float) and 0 <= seconds < 1e15
    return values if whole and timed else None


def lines(records: list[dict[str, Any]]) -> bytes:
    """Return records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def pretty(values: Mapping[str, Any]) -> bytes:
    """Return an object's bytes for people and programs to read."""
    return (json.dumps(values, indent=2) + "\n").encode()


def _read_object(storage: Storage, name: str) -> dict[str, Any] | None:
    try:
        values = json_object(read_at_most(storage, name, MOST_OBJECT))
    except ObjectNotFoundError:
        return None
    if values is None or not _is_plain(values, MOST_DEPTH):
        raise DataError(
            f"{storage.uri}/{name}: damaged: must be a JSON object; give another run folder"
        )
    return values


def _is_plain(value: Any, depth: int) -> bool:
    """Return whether all numbers are finite, and at most ``depth`` values lie in each other."""
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth >= 0 and all(_is_plain(each, depth - 1) for each in inner)


def from_anywhere(data: str) -> str:
    """Return a URI that means the same in another working directory."""
    return data if "://" in data else str(Path(data).expanduser().absolute())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:10] + "..." + text[-4:]
