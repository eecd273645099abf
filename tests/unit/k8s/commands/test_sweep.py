"""Sweeps in a cluster: what is started, stopped, left alone and said, run by run."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from k8s import manifest, run_file
from k8s.__main__ import main
from k8s.client.cluster import Cluster
from k8s.commands import status, sweep
from k8s.run import which_run
from tests.support.apiserver import ApiServer, Fault
from tests.support.controller import Controller
from tests.support.runfiles import FULL, spec
from tests.support.verbs import RESULT
from trainer.data import dataset
from trainer.errors import ConfigError
from trainer.gang import sweep_file
from trainer.runs import run_folder
from trainer.storage.base import open_storage

RATES = [0.001, 0.002, 0.003, 0.004, 0.005]
ENDED = {"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:05Z"}
Turn = Callable[[], None]


class Player:
    """Plays the trainers of all runs, a turn for each look of the command."""

    def __init__(self, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api, self.controller = api, Controller(api)
        self.most, self.script = 0, list[Turn]()
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: self.turn())
        monkeypatch.setattr(sweep, "time", clock)

    def turn(self) -> None:
        self.most = max(self.most, len(self.active()))
        if not self.script:
            raise KeyboardInterrupt
        self.script.pop(0)()

    def jobs(self) -> dict[str, dict[str, Any]]:
        found = [o for (kind, _, _), o in self.api.objects.items() if kind == "Job"]
        return {job["metadata"]["name"]: job for job in found}

    def active(self) -> list[str]:
        return [
            n
            for n, job in self.jobs().items()
            if not job["spec"]["suspend"] and not job.get("status")
        ]

    def config(self, name: str) -> Any:
        job = self.jobs()[name]
        return run_file.parse(
            yaml.safe_load(job["metadata"]["annotations"][manifest.RUN_FILE]), name
        ).config

    def claim(self, name: str) -> Any:
        config = self.config(name)
        folder = open_storage(config.run)
        run_folder.claim(folder, config, dataset.load(config.data, config.validation).sha256)
        return folder

    def finish(self, name: str) -> None:
        self.store_result(name)
        self._end(name, "Complete")

    def store_result(self, name: str) -> None:
        self.claim(name).create(run_folder.RESULT, run_folder.pretty({**RESULT, "workers": 1}))

    def fail(self, name: str) -> None:
        self._end(name, "Failed")

    def validate(self, name: str, *shares: float) -> None:
        lines = [
            {
                "step": 100 * k,
                "train_seconds": k,
                "validation_accuracy": v,
                "validation_loss": 1 - v,
            }
            for k, v in enumerate(shares, 1)
        ]
        self.claim(name).replace(run_folder.METRICS, run_folder.lines(lines))

    def compare(self, names: list[str]) -> None:
        """Have the second of two runs be better, and add their names."""
        names += self.active()
        self.validate(names[0], 0.5)
        self.validate(names[1], 0.6)

    def finish_all(self) -> None:
        for name in self.active():
            self.finish(name)

    def _end(self, name: str, condition: str) -> None:
        job = self.jobs()[name]
        for pod in self.controller.pods(job):
            code = 0 if condition == "Complete" else 2
            ended = {"exitCode": code, "reason": "Error", "message": "bad luck" if code else ""}
            pod["status"] = {
                "phase": "Failed" if code else "Succeeded",
                "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}],
            }
        said = {
            "type": condition,
            "status": "True",
            "reason": "",
            "lastTransitionTime": ENDED["completionTime"],
        }
        job["status"] = {**ENDED, "conditions": [said]}


@pytest.fixture
def player(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Player:
    return Player(api, monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    values = {
        "folder": f"gs://bucket/sweeps/{tmp_path.name}",
        "parallel": 2,
        "settings": {"preset": "softmax"},
        "grid": {"learning_rate": RATES},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def change(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_so_many_runs_at_a_time_each_once_and_a_comparison(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    player.script = [player.finish_all] * 3
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert player.most == 2
    assert len(player.jobs()) == len(RATES)
    for name, job in player.jobs().items():
        digest = run_folder.digest(player.config(name).identity())[:8]
        assert name == f"mnist-{digest}"
        assert job["metadata"]["labels"][manifest.SWEEP] == "mnist"
    assert [line.split()[0] for line in out.splitlines() if line.endswith("99.22%")] == [
        f"{place}/5" for place in range(1, 6)
    ]
    folder = yaml.safe_load(file.read_text())["folder"]
    assert out.endswith(f"page: {folder}/compare.html\n")
    assert b"<table" in open_storage(folder).read("compare.html")
    # The same again: nothing is left to do, whether the Jobs are still there or not.
    for keep in (True, False):
        if not keep:
            player.api.objects.clear()
        assert main(["sweep", str(file), "--on", str(run_file)]) == 0
        assert capsys.readouterr().out.count("finished before") == len(RATES)
        assert len(player.jobs()) == len(RATES) * keep


def test_a_failed_run_stops_no_other_and_is_not_tried_again(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    player.script = [lambda: player.fail(player.active()[0]), *[player.finish_all] * 3]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 1
    out, err = capsys.readouterr()
    [line] = [line for line in out.splitlines() if "failed: " in line]
    assert "bad luck" in line
    assert err.startswith("k8s: 1 of 5 runs failed")
    assert err.count("\n") == 1
    assert main(["sweep", str(file), "--on", str(run_file)]) == 1
    assert "started" not in capsys.readouterr().out


def test_a_sweep_that_was_left_takes_up_what_runs(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    player.script = [lambda: player.finish(player.active()[0])]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 130
    out = capsys.readouterr().out
    assert "the same command resumes the sweep" in out
    assert "python -m k8s cancel mnist --namespace default" in out
    assert len(player.jobs()) == 3
    player.script = [player.finish_all] * 3
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert out.count("finished before") == 1
    assert out.count("is in progress") == 2
    assert out.count("started") == 2
    assert player.most == 2


def test_a_run_that_somebody_stops_is_left_alone(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cancel() -> None:
        assert main(["cancel", player.active()[0]]) == 0

    player.script = [cancel, *[player.finish_all] * 3]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    assert "was stopped or deleted; the same command resumes it" in capsys.readouterr().out
    assert sum(job["spec"]["suspend"] for job in player.jobs().values()) == 1
    player.script = [player.finish_all]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    assert not any(job["spec"]["suspend"] for job in player.jobs().values())


def test_a_sweep_is_cancelled_resumed_and_deleted_by_its_name(
    player: Player,
    file: Path,
    run_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(run_file.read_text())
    change(other, name="other", run=f"gs://bucket/other/{tmp_path.name}")
    assert main(["submit", str(other)]) == 0
    player.script = [lambda: player.finish(next(n for n in player.active() if n != "other"))]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 130
    capsys.readouterr()
    assert main(["cancel", "mnist"]) == 0
    out = capsys.readouterr().out
    assert out.count("has finished; there is nothing to stop") == 1
    assert out.count("stores a checkpoint and stops; the sweep's command resumes it") == 2
    assert player.active() == ["other"]
    player.script = [player.finish_all] * 3
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    capsys.readouterr()
    assert not any(job["spec"]["suspend"] for job in player.jobs().values())
    assert main(["delete", str(run_file)]) == 0
    assert capsys.readouterr().out.count("removed from the cluster") == len(RATES)
    assert list(player.jobs()) == ["other"]
    assert main(["delete", "mnist"]) == 2
    assert "mnist: no such run in namespace default" in capsys.readouterr().err


def test_a_run_goes_before_a_sweep_of_its_name(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run_file)]) == 0
    assert main(["sweep", str(file), "--on", str(run_file)]) == 130
    capsys.readouterr()
    assert main(["delete", "mnist"]) == 0
    assert capsys.readouterr().out.startswith("mnist: removed from the cluster")
    assert len(player.jobs()) == 2


def test_the_worse_half_is_suspended_and_counts_as_no_failure(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(file, halving={"first": 100}, grid={"learning_rate": RATES[:2]})
    names = list[str]()
    player.script = [lambda: player.compare(names), lambda: None, player.finish_all]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert f"{names[0]}  stops early: 50.00% in its last validation, at step 100" in out
    assert f"{names[0]}  stopped early: " in out
    assert "~ 1 of 2 not finished" in out
    assert player.jobs()[names[0]]["spec"]["suspend"]
    assert player.config(names[0]).checkpoint_steps == 100
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert "started" not in out
    assert "resumes" not in out


def test_a_run_that_finishes_while_it_is_suspended_has_finished(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(file, halving={"first": 100}, grid={"learning_rate": RATES[:2]})
    names = list[str]()
    player.script = [
        lambda: player.compare(names),
        lambda: player.store_result(names[0]),
        player.finish_all,
    ]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    out = capsys.readouterr().out
    assert f"{names[0]}  stops early: " in out
    assert "stopped early" not in out
    assert "not finished" not in out
    assert player.jobs()[names[0]]["spec"]["suspend"]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    assert capsys.readouterr().out.count("finished before") == 2


def test_a_cluster_that_does_not_answer_for_a_while_ends_nothing(
    player: Player,
    file: Path,
    run_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(which_run, "cluster", lambda *_: Cluster(deadline=0.1, pause=0.01))

    def fail() -> None:
        player.api.faults.append(Fault("status", "list", "jobs", status=503, times=30))

    player.script = [fail, *[player.finish_all] * 40]
    assert main(["sweep", str(file), "--on", str(run_file)]) == 0
    assert capsys.readouterr().out.count("the runs continue unseen") == 1


def test_jobs_with_other_settings_are_refused_before_anything_starts(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(file), "--on", str(run_file)]) == 130
    jobs = set(player.jobs())
    change(run_file, image="trainyard:0.2.0")
    assert main(["sweep", str(file), "--on", str(run_file)]) == 2
    err = capsys.readouterr().err
    assert "is submitted with other settings: image" in err
    assert set(player.jobs()) == jobs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "bucket/sweeps/first"}, "folder: 'bucket/sweeps/first': must be gs://"),
        ({"folder": "/runs/sweep"}, "folder: '/runs/sweep': must be gs://"),
        (
            {"settings": {"data": "gs://b/d"}},
            "settings.data: in a cluster, the run file gives data",
        ),
        (
            {"settings": {"workers": 2}},
            "settings.workers: in a cluster, the run file gives workers",
        ),
        ({"halving": {"first": 10}, "settings": {"validation": 0}}, "halving: needs validations"),
        ({"parallel": 0}, "parallel: "),
        ({"halving": {"first": 9, "metrik": "loss"}}, "did you mean metric?"),
    ],
)
def test_mistakes_are_one_line_and_start_nothing(
    api: ApiServer,
    file: Path,
    run_file: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    change(file, **changes)
    assert main(["sweep", str(file), "--on", str(run_file)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not api.requests


def test_every_run_must_fit_the_data(
    player: Player, file: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(file, grid={"batch_size": [32, 602]})
    assert main(["sweep", str(file), "--on", str(run_file)]) == 2
    assert "batch_size: 602: more than the" in capsys.readouterr().out
    assert not player.jobs()


def plan(
    run: run_file.RunSpec, **values: Any
) -> tuple[list[sweep_file.Planned], list[run_file.RunSpec]]:
    found = sweep_file.parse({"folder": "gs://bucket/sweep", **values})
    return sweep.plan(found, run, "sweep.yaml")


def test_each_run_is_the_run_file_with_the_sweeps_settings() -> None:
    run = spec(workers=3, train={"preset": "mlp-100", "steps": 50, "seed": 4}, priority_class="low")
    planned, runs = plan(
        run,
        settings={"epochs": 2, "seed": 5},
        grid={"batch_size": [32, 64]},
        random={
            "count": 2,
            "settings": {"epochs": [0.5, 1.5], "learning_rate": {"low": 0.1, "high": 1}},
        },
    )
    assert len(runs) == len(planned) == 4
    for each, its in zip(planned, runs, strict=True):
        assert its.config.identity() == each.config.identity()
        assert its.run_uri == each.config.run
        assert (its.workers, its.data, its.priority_class) == (3, run.data, "low")
        assert (its.config.seed, its.config.report) == (5, False)
        assert its.config.steps == 0
    assert len({its.name for its in runs}) == 4


def test_names_that_would_be_too_long_are_refused() -> None:
    longest = 63 - len("-12345678-0-xxxxx")
    _, [one] = plan(spec(name="a" * longest), grid={"seed": [1]})
    assert one.name.startswith("a" * longest + "-")
    with pytest.raises(ConfigError, match="64 characters, and 63 are allowed; take away 1"):
        plan(spec(name="a" * (longest + 1)), grid={"seed": [1]})


def run_of(name: str, phase: str, sweep_name: str = "", **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("step", "total_steps", "accuracy"))
    plain = {**empty, "restarts": 0, "age_seconds": 5, "cause": ""}
    return {"name": name, "phase": phase, "sweep": sweep_name, **plain, **values}


def test_a_list_has_one_line_for_a_sweep_and_its_runs_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [
        run_of("s-2", "Running", "s", restarts=2),
        run_of("s", "Queued"),
        run_of("s-1", "Succeeded", "s", accuracy=0.5, age_seconds=9),
        run_of("s-0", "Succeeded", "s", accuracy=0.75),
    ]
    found = status.with_sweeps(runs)
    assert [line["name"] for line in found] == ["s", "  s-2", "  s-1", "  s-0", "s"]
    assert found[0]["phase"] == "1 Running, 2 Succeeded"
    assert (found[0]["accuracy"], found[0]["restarts"], found[0]["age_seconds"]) == (0.75, 2, 9)
    assert status.with_sweeps([runs[1]]) == [runs[1]]
    status.show_table(runs, "here")
    _, sweep_line, *others = capsys.readouterr().out.splitlines()
    assert sweep_line.split() == ["s", "1", "Running,", "2", "Succeeded", "-", "75.00%", "2", "9s"]
    assert len(others) == len(runs)


def test_whatever_a_run_file_holds_its_runs_hold_too() -> None:
    run = run_file.parse({**FULL, "train": {"preset": "mlp-100"}}, "full.yaml")
    _, [one] = plan(run, grid={"seed": [7]})
    theirs, ours = run.model_dump(), one.model_dump()
    assert {name for name in ours if ours[name] != theirs[name]} == {"name", "run", "train"}
