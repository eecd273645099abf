"""TensorBoard's event files, as bytes: pure functions of what a run has measured.

Files one after the other are again an event file.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT, DT_STRING
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)

from trainer.common.text import printable
from trainer.errors import DataError

BINS = 30  # of a histogram, as many as TensorBoard's own have

_VERSION = "brain.Event:2"  # first in every file, else TensorBoard reads it as an older format

Value = Any  # a Summary.Value: the protos come without types
Record = Mapping[str, Any]


def steps(values: Mapping[int, Sequence[Value]], times: Mapping[int, float]) -> bytes:
    """Return a part with values by step; times of these steps are seconds since the epoch."""
    ordered = sorted(step for step, of_step in values.items() if of_step)
    # A reader that has seen these steps, from a part since replaced, forgets them at this.
    start = [Event(step=s, session_log=SessionLog(status=SessionLog.START)) for s in ordered[:1]]
    events = [Event(step=step, summary=Summary(value=values[step])) for step in ordered]
    for event in (*start, *events):
        event.wall_time = times[event.step]
    return _file([*start, *events])


def settings(values: Mapping[str, Any], name: str, started: float) -> bytes:
    """Return the part that gives a run's settings to the HParams plugin.

    Args:
        values: settings by name; None is left out.
        name: the same for runs of the same settings.
        started: when the run began, seconds since the epoch.
    """
    info = SessionStartInfo(group_name=name, start_time_secs=started)
    for key, value in values.items():
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            info.hparams[key].number_value = value
        elif value is not None:
            info.hparams[key].string_value = str(value)
    data = HParamsPluginData(session_start_info=info)
    return _hparams("session_start_info", data, started)


def end(ended: float) -> bytes:
    """Return the part that says to the HParams plugin that a run has ended."""
    info = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=ended)
    return _hparams("session_end_info", HParamsPluginData(session_end_info=info), ended)


def graph(definition: bytes, now: float) -> bytes:
    """Return the part with a model's graph, a serialised GraphDef."""
    return _file([Event(wall_time=now, graph_def=definition)])


def scalars(records: Iterable[Record], names: Mapping[str, str]) -> dict[int, list[Value]]:
    """Return values by step of some fields of metrics.jsonl's records, in any order.

    ``names``: the fields, and as what to show each; records without them are passed over.
    """
    found: dict[int, list[Value]] = {}
    for record in records:
        for field, tag in names.items():
            if field in record:
                found.setdefault(record["step"], []).append(scalar(tag, record[field]))
    return found


def times(records: Sequence[Record], now: float) -> dict[int, float]:
    """Return when each step was recorded, seconds since the epoch; ``now``: the last of them.

    Records carry the seconds of training alone: pauses for validation and restarts are missing, so
    times before a pause come out too late.
    """
    last = records[-1]["train_seconds"] if records else 0.0
    return {record["step"]: now - (last - record["train_seconds"]) for record in records}


def scalar(tag: str, value: float) -> Value:
    """Return one point of a curve."""
    tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(), float_val=[value])
    return _value(tag, "scalars", DATA_CLASS_SCALAR, tensor)


def image(tag: str, png: bytes, class_names: Sequence[str] = ()) -> Value:
    """Return one picture, of classes with these names; TensorBoard shows them beside it."""
    # https://www.w3.org/TR/png-3/#11IHDR: width and height stand at bytes 16 to 23.
    edges = [str(int.from_bytes(png[at : at + 4])).encode() for at in (16, 20)]
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=_shape(3), string_val=[*edges, png])
    value = _value(tag, "images", DATA_CLASS_BLOB_SEQUENCE, tensor)
    # Markdown: a line that begins with four blanks is shown as it is.
    lines = (f"    {label} {printable(name)}\n" for label, name in enumerate(class_names))
    value.metadata.summary_description = "".join(lines)
    return value


def pictures(part: bytes) -> tuple[int, dict[str, bytes]]:
    """Return the step of a part's last pictures, and these by name: PNG, or what is in its place.

    Raises:
        DataError: these are no events.
    """
    found: dict[str, bytes] = {}
    at = step = 0
    try:
        while at < len(part):  # https://www.tensorflow.org/tutorials/load_data/tfrecord
            size = int.from_bytes(part[at : at + 8], "little")
            event = Event.FromString(part[at + 12 : at + 12 + size])
            at += size + 16
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "images":
                    step, found[value.tag] = event.step, value.tensor.string_val[-1]
    except (DecodeError, IndexError):
        raise DataError("an event file is damaged; its pictures are not shown") from None
    return step, found


def histogram(tag: str, values: npt.NDArray[Any]) -> Value:
    """Return how values of any shape are distributed: left edge, right edge and count of bins."""
    counts, edges = np.histogram(values.astype(np.float64), BINS)
    rows = np.stack([edges[:-1], edges[1:], counts], axis=1)
    tensor = TensorProto(
        dtype=DT_DOUBLE, tensor_shape=_shape(BINS, 3), tensor_content=rows.tobytes()
    )
    return _value(tag, "histograms", DATA_CLASS_TENSOR, tensor)


def _hparams(tag: str, data: Any, now: float) -> bytes:
    # The plugin reads the metadata; the tensor is there because one must be.
    tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(), float_val=[0.0])
    content = data.SerializeToString()
    value = _value(f"_hparams_/{tag}", "hparams", DATA_CLASS_TENSOR, tensor, content)
    return _file([Event(wall_time=now, summary=Summary(value=[value]))])


def _value(tag: str, plugin: str, data_class: int, tensor: Any, content: bytes = b"") -> Value:
    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    metadata = SummaryMetadata(plugin_data=data, data_class=data_class)
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def _shape(*sizes: int) -> Any:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _file(events: Sequence[Any]) -> bytes:
    version = Event(wall_time=events[0].wall_time if events else 0.0, file_version=_VERSION)
    return b"".join(_framed(event.SerializeToString()) for event in (version, *events))


def _framed(data: bytes) -> bytes:
    """Return one TFRecord: https://www.tensorflow.org/tutorials/load_data/tfrecord."""
    size = struct.pack("<Q", len(data))
    return b"".join((size, _checksum(size), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
