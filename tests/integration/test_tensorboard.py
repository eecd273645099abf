"""TensorBoard itself, started by our command on the folders of real runs, asked over HTTP."""

import contextlib
import io
import json
import os
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import processes, warm
from tests.support.stores import Stores, opened
from trainer.runs import tensorboard_format, tensorboard_writer
from trainer.storage.base import Storage, open_storage

JOB = (*("train", "--validation", "400", "--chunk-steps", "20", "--checkpoint-steps", "20"),)


class Board:
    """What a TensorBoard answers."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, body: Any = None, **query: str) -> bytes:
        """Return the bytes at a path below /data."""
        request = urllib.request.Request(
            f"{self._url}data/{path}?{urllib.parse.urlencode(query)}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: bytes = answer.read()
        return found

    def json(self, path: str, body: Any = None, **query: str) -> Any:
        """Return the JSON at a path below /data."""
        return json.loads(self.get(path, body, **query))

    def curve(self, run: str, tag: str) -> dict[int, float]:
        """Return value by step; a step is there once."""
        try:
            points = self.json("plugin/scalars/scalars", run=run, tag=tag)
        except urllib.error.HTTPError:  # it has not got any yet
            return {}
        steps = [step for _, step, _ in points]
        assert steps == sorted(set(steps))
        return {step: value for _, step, value in points}

    def pictures(self, run: str, tag: str) -> dict[int, Image.Image]:
        """Return picture by step."""
        points = self.json("plugin/images/images", run=run, tag=tag, sample="0")
        found: dict[int, Image.Image] = {}
        for point in points:
            key = dict(urllib.parse.parse_qsl(point["query"]))
            data = self.get("plugin/images/individualImage", **key)
            found[point["step"]] = Image.open(io.BytesIO(data))
        return found


@contextlib.contextmanager
def board(uri: str, env: Mapping[str, str] | None = None) -> Iterator[Board]:
    """Run our command until the end of the block, and see that Ctrl-C ends all of it."""
    port = processes.free_ports(1)
    arguments = ("tensorboard", "--run", uri, "--port", str(port))
    with processes.running(*arguments, env=env) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert f"of {uri}: " in lines[0], process.communicate(timeout=60)
        assert lines[1] == f"TensorBoard is at http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        below = processes.descendants(process.pid)
        yield Board(f"http://127.0.0.1:{port}/")
        process.send_signal(signal.SIGINT)
        code, _, err = processes.finish(process, 60)
        assert (code, err) == (0, "")
    processes.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 20)


def expected(metrics: bytes, field: str) -> dict[int, Any]:
    """Return the values of a field of metrics.jsonl by step, as 32 bits can tell them."""
    lines = [json.loads(line) for line in metrics.splitlines()]
    return {line["step"]: pytest.approx(line[field], rel=1e-6) for line in lines if field in line}


def check_curves(shown: Board, run: str, metrics: bytes) -> None:
    for field in ("loss", "accuracy", "images_per_second"):
        assert shown.curve(f"{run}/train", field) == expected(metrics, field)
    for field in ("loss", "accuracy"):
        values = expected(metrics, f"validation_{field}")
        assert values
        assert shown.curve(f"{run}/validation", field) == values


def test_a_finished_run_is_shown_whole(digits: Path, tmp_path: Path) -> None:
    code, _, err = warm.run(
        *(*JOB, "--preset", "cnn", "--steps", "60", "--eval-epochs", "2"),
        *("--tensorboard", "histograms"),
        *("--data", str(digits), "--run", str(tmp_path / "deep" / "one")),
    )
    assert (code, err) == (0, "")
    metrics = (tmp_path / "deep/one/metrics.jsonl").read_bytes()
    result = json.loads((tmp_path / "deep/one/result.json").read_text())
    with board(str(tmp_path)) as shown:
        run = "deep/one"
        processes.wait_until(lambda: shown.curve(f"{run}/test", "loss"), 60)
        assert set(shown.json("runs")) == {run, *(f"{run}/{k}" for k in tensorboard_writer.KINDS)}
        check_curves(shown, run, metrics)
        for field in ("accuracy", "loss"):
            value = pytest.approx(result[f"test_{field}"], rel=1e-6)
            assert shown.curve(f"{run}/test", field) == {60: value}
        rates = shown.curve(f"{run}/train", "learning_rate")
        assert rates.keys() == shown.curve(f"{run}/train", "loss").keys()
        assert len(set(rates.values())) > 1
        last = max(expected(metrics, "validation_loss"))
        for kind, step in (("validation", last), ("test", 60)):
            for tag in ("confusion matrix", "wrong pictures"):
                assert shown.pictures(f"{run}/{kind}", tag)[step].width > 100
        assert "MatMul" in shown.get("plugin/graphs/graph", run=run).decode()
        tags = shown.json("plugin/histograms/tags")[f"{run}/train"]
        assert "weights/sequential/dense/kernel" in tags
        wanted = {
            "experimentName": "",
            "allowedStatuses": ["STATUS_SUCCESS"],
            "startIndex": 0,
            "sliceSize": 9,
        }
        [group] = shown.json("plugin/hparams/session_groups", wanted)["sessionGroups"]
        assert group["hparams"]["preset"] == "cnn"
        assert group["hparams"]["steps"] == 60
        values = {
            f"{value['name']['group']}/{value['name']['tag']}": value["value"]
            for value in group["metricValues"]
        }
        assert values["test/accuracy"] == pytest.approx(result["test_accuracy"])
        assert values["test/loss"] == pytest.approx(result["test_loss"])
        assert values["validation/accuracy"] == pytest.approx(result["validation_accuracy"])


def last_part(run: Storage) -> int:
    names = [tensorboard_writer.parse(entry.name) for entry in run.list()]
    return max((int(n.part) for n in names if n and n.kind == "train"), default=0)


def kill_after_a_part(job: tuple[str, ...], run: Storage, env: Mapping[str, str]) -> int:
    """Train until a new part is stored, SIGKILL everything, and return the part's step."""
    before = last_part(run)
    with warm.running(*job, env=env):
        processes.wait_until(lambda: last_part(run) > before)
    return last_part(run)


def test_a_run_in_a_bucket_is_followed_through_kills(
    digits: Path, tmp_path: Path, stores: Stores
) -> None:
    model = ("--model", "tiny_models:noisy", "--steps", "800", "--eval-epochs", "10")
    job = (*JOB, *model, "--data", str(digits))
    code, _, err = warm.run(*job, "--tensorboard", "off", "--run", str(tmp_path / "whole"))
    assert (code, err) == (0, "")
    assert not (tmp_path / "whole" / "events").exists()
    whole = json.loads((tmp_path / "whole" / "result.json").read_text())
    server = stores("gs")
    with opened(server) as runs:
        env, one = server.environment, open_storage(f"{runs.uri}/one")
        stored = (*job, "--tensorboard", "on", "--run", one.uri)
        first = kill_after_a_part(stored, one, env)
        with board(one.uri, env) as shown:

            def last_point() -> int:
                return max(shown.curve("one/train", "loss"), default=0)

            processes.wait_until(lambda: last_point() == first, 60)
            second = kill_after_a_part(stored, one, env)
            assert first < second < 800
            processes.wait_until(lambda: last_point() == second, 60)
            code, _, err = warm.run(*stored, env=env)
            assert (code, err) == (0, "")
            processes.wait_until(lambda: shown.curve("one/test", "loss"), 60)
            result = json.loads(one.read("result.json"))
            assert result["weights_sha256"] == whole["weights_sha256"]
            metrics = one.read("metrics.jsonl")
            check_curves(shown, "one", metrics)
            undisturbed = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
            assert shown.curve("one/train", "loss") == expected(undisturbed, "loss")


def check_title_and_port(shown: Board, uri: str) -> None:
    assert shown.json("environment")["window_title"] == "Trainyard"
    taken = str(urllib.parse.urlparse(shown._url).port)
    code, out, err = warm.run("tensorboard", "--run", uri, "--port", taken)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"port: {taken}: cannot be had on '127.0.0.1': Address already in use" in err


def test_points_of_steps_done_again_take_the_place_of_those_before(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "one"))

    def put(step: int, value: float) -> None:
        values = {at: [tensorboard_format.scalar("loss", value)] for at in (step - 5, step)}
        data = tensorboard_format.steps(values, dict.fromkeys(values, 1e9))
        storage.replace(tensorboard_writer.step_name("train", step), data)

    for step in (10, 20, 30, 40):
        put(step, 1.0)
    with board(str(tmp_path)) as shown:
        processes.wait_until(lambda: len(shown.curve("one/train", "loss")) == 8, 60)
        for step in (20, 30, 40):  # its checkpoints were damaged, say
            storage.delete(tensorboard_writer.step_name("train", step))
        put(21, 2.0)
        after = {5: 1.0, 10: 1.0, 16: 2.0, 21: 2.0}
        processes.wait_until(lambda: shown.curve("one/train", "loss") == after, 60)
        check_title_and_port(shown, str(tmp_path))


def test_a_folder_without_event_files_is_told_in_one_line(tmp_path: Path) -> None:
    port = processes.free_ports(1)
    code, out, err = warm.run("tensorboard", "--run", str(tmp_path), "--port", str(port))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no run with event files at or below it" in err


def test_tensorboard_ends_with_us_however_we_end(tmp_path: Path) -> None:
    name = tensorboard_writer.step_name("train", 1)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"")
    port = processes.free_ports(1)
    with processes.running("tensorboard", "--run", str(tmp_path), "--port", str(port)) as ours:
        assert ours.stdout is not None
        assert ours.stdout.readline()
        below = processes.descendants(ours.pid)
        assert below
        os.kill(ours.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            ours.wait(10)
    processes.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 20)
