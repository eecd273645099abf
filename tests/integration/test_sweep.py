"""Whole sweeps in processes of their own."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import processes, shared, warm


def sweep_file(where: Path, name: str, data: Path, **changes: Any) -> Path:
    """Write a sweep of 2 x 2 short runs."""
    path = where / f"{name}.yaml"
    settings = {"preset": "mlp-100", "data": str(data), "validation": 200, "steps": 120}
    settings |= {"chunk_steps": 20, "checkpoint_steps": 20, "tensorboard": "off", "xla": "off"}
    values = {
        "folder": str(where / name),
        "settings": {**settings, **changes.pop("settings", {})},
        "grid": {"learning_rate": ["1e-3", 0.01], "batch_size": [32, 64]},
        **changes,
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def sweep(path: Path) -> tuple[int, str, str]:
    return warm.run("sweep", str(path), limit=4 * processes.LIMIT)


def results(folder: Path) -> dict[str, str]:
    """Return the weights' SHA-256 by the name of a run's folder."""
    found = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")
    }
    return {name: result["weights_sha256"] for name, result in found.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    def train(folder: Path) -> None:
        folder.mkdir()
        code, out, err = sweep(sweep_file(folder, "whole", digits))
        assert (code, err) == (0, ""), out
        lines = out.splitlines()
        for place, (rate, batch) in enumerate([("0.001", 32), ("0.001", 64), ("0.01", 32)], 1):
            start = f"{place}/4  learning_rate {rate}, batch_size {batch}  "
            assert lines[place - 1].startswith(start)
            assert lines[place - 1].endswith(" left")
        assert lines[3].startswith("4/4  learning_rate 0.01, batch_size 64  ")
        assert lines[-1] == f"page: {folder}/whole/compare.html"
        assert max(map(len, lines[4:-1])) <= 80
        assert len(results(folder / "whole")) == 4
        assert not list((folder / "whole").glob("*/report.html"))

    return shared.once(tmp_path_factory, "sweep", train) / "whole"


def test_a_killed_sweep_goes_on_and_ends_the_same(
    tmp_path: Path, digits: Path, undisturbed: Path
) -> None:
    half = {"learning_rate": ["1e-3", 0.01], "batch_size": [32]}
    path = sweep_file(tmp_path, "killed", digits, grid=half)
    folder = tmp_path / "killed"
    with warm.running("sweep", str(path)) as process:
        processes.wait_until(lambda: len(results(folder)) == 1)
        processes.wait_until(lambda: len(list(folder.glob("*/checkpoints/*"))) > 3)
        processes.kill_all(process.pid)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/result.json")}
    assert before
    code, out, err = sweep(path)
    assert (code, err) == (0, ""), out
    assert out.count("finished before") == len(before)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(results(folder)) == 2
    assert results(folder).items() <= results(undisturbed).items()
    code, out, err = sweep(path)
    assert (code, out.count("finished before")) == (0, 2)


def test_a_stopped_sweep_stores_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, digits: Path
) -> None:
    path = sweep_file(tmp_path, "stopped", digits, settings={"steps": 10_000_000})
    folder = tmp_path / "stopped"
    with warm.running("sweep", str(path)) as process:
        processes.wait_until(lambda: list(folder.glob("*/checkpoints/*")))
        process.send_signal(signal.SIGTERM)
        code, out, err = processes.finish(process)
    assert (code, err) == (
        75,
        "trainer: stopped at run 1 of 4; the same command resumes from there\n",
    )
    assert out == "1/4  learning_rate 0.001, batch_size 32  stopped\n"
    (run,) = folder.iterdir()
    attempt = json.loads((run / "attempts.jsonl").read_text())
    assert attempt["cause"]["kind"] == "stopped"
    newest = max(path.stem for path in run.glob("checkpoints/*"))
    assert newest == f"step-{attempt['last_step']:08}"


def test_a_run_that_diverges_is_told_of_and_the_others_go_on(tmp_path: Path, digits: Path) -> None:
    path = sweep_file(
        tmp_path, "diverging", digits, grid={"optimizer": ["sgd"], "learning_rate": [1e30, 0.1]}
    )
    code, out, err = sweep(path)
    assert code == 2
    lines = out.splitlines()
    assert lines[0].startswith("1/2  optimizer sgd, learning_rate 1e+30  failed with exit code 2: ")
    assert "lower learning_rate" in lines[0]
    assert "1 of 2 not finished" in out
    assert err.startswith("trainer: 1 of 2 runs failed")
    assert err.count("\n") == 1
    assert len(results(tmp_path / "diverging")) == 1
    assert (tmp_path / "diverging/compare.html").stat().st_size > 10_000


def test_other_data_in_the_same_folder_are_refused(tmp_path: Path, undisturbed: Path) -> None:
    other = tmp_path / "other"
    code, _, err = warm.run(
        *("data", "put", "--from", "digits", "--to", str(other), "--seed", "5"),
        *("--train-count", "500", "--test-count", "100"),
    )
    assert code == 0, err
    path = sweep_file(tmp_path, "other-data", other, folder=str(undisturbed))
    code, out, err = sweep(path)
    assert (code, out) == (2, "")
    assert "is a run on other data" in err
    code, out, err = warm.run("sweep", str(sweep_file(tmp_path, "no-data", tmp_path / "none")))
    assert (code, out, err.count("\n")) == (65, "", 1)


def test_the_plan_and_mistakes_are_told_without_training(tmp_path: Path, digits: Path) -> None:
    path = sweep_file(tmp_path, "planned", digits)
    code, out, err = warm.run("sweep", "--plan", str(path))
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 4
    assert out.startswith(f"1/4  learning_rate 0.001, batch_size 32  {tmp_path}/planned/")
    path = sweep_file(tmp_path, "planned", digits, gird={})
    code, out, err = sweep(path)
    assert (code, out) == (2, "")
    assert err == f"trainer: {path}: unknown setting 'gird'; did you mean grid? " + (
        "(known: folder, settings, grid, random, halving, parallel)\n"
    )
    assert not (tmp_path / "planned").exists()


def test_runs_are_compared_by_the_command(tmp_path: Path, undisturbed: Path) -> None:
    page = tmp_path / "page.html"
    code, out, err = warm.run("compare", str(undisturbed), "--output", str(page))
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"page: {page}"
    assert page.read_bytes() == (undisturbed / "compare.html").read_bytes()
    code, out, err = warm.run("compare", str(undisturbed), "--json")
    rows = json.loads(out)
    accuracies = [row["accuracy"] for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    stored = [json.loads((Path(row["run"]) / "result.json").read_text()) for row in rows]
    assert accuracies == [result["test_accuracy"] for result in stored]
    assert {tuple(row["settings"]) for row in rows} == {("batch_size", "learning_rate")}
    code, out, err = warm.run("compare", str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    code, out, err = warm.run("compare", str(damaged), "--json")
    assert (code, out, err.count("\n")) == (65, "", 1)
    code, out, err = warm.run("compare", str(damaged), str(undisturbed), "--json")
    assert (code, len(json.loads(out)), err.count("\n")) == (0, 4, 1)
    assert err.startswith("trainer: warning: left out: ")
