"""Another number of workers for a run that trains."""

from pathlib import Path
from typing import Any

import pytest

from k8s.__main__ import main
from tests.support.apiserver import ApiServer, Fault
from tests.support.controller import Controller
from tests.support.verbs import change

ELASTIC = {"validation": 100, "batch_size": 120, "min_workers": 2}


@pytest.fixture
def submitted(run_file: Path, controller: Controller) -> Controller:
    change(run_file, train=ELASTIC)
    assert main(["submit", str(run_file)]) == 0
    return controller


def size(controller: Controller) -> tuple[int, int]:
    spec = controller.job()["spec"]
    return spec["completions"], spec["parallelism"]


def scale(workers: int) -> int:
    return main(["scale", "mnist", "--workers", str(workers)])


def test_completions_and_parallelism_change_together(
    submitted: Controller, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scale(4) == 0
    assert "mnist: goes from 2 to 4 workers after a chunk of steps" in capsys.readouterr().out
    [patch] = [r.body for r in submitted.api.requests if r.verb == "patch"][-1:]
    assert patch == {"spec": {"completions": 4, "parallelism": 4}}
    assert main(["scale", str(run_file), "--workers", "3"]) == 0
    assert "mnist: goes from 4 to 3 workers" in capsys.readouterr().out
    assert scale(3) == 0
    assert "mnist: has 3 workers already" in capsys.readouterr().out
    # The run file that it was submitted from still means this run.
    assert main(["submit", str(run_file)]) == 0
    assert "mnist: is running already" in capsys.readouterr().out
    assert size(submitted) == (3, 3)
    change(run_file, workers=4)
    assert main(["submit", str(run_file)]) == 2
    assert capsys.readouterr().err == (
        "k8s: mnist: is submitted with other settings: workers (2 there, 4 here); "
        "python -m k8s scale mnist --workers 4 --namespace default does it\n"
    )


@pytest.mark.parametrize(
    ("workers", "fitting"),
    [
        (1, "2"),
        (7, "6 or 8"),
        (0, "2"),
        (121, "120"),
        (1025, "120"),
    ],
)
@pytest.mark.usefixtures("submitted")
def test_a_size_that_the_run_cannot_have_is_refused(
    workers: int, fitting: str, api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(api.requests)
    assert scale(workers) == 2
    assert capsys.readouterr().err == (
        f"k8s: mnist: --workers {workers}: must be from 2 to 1024 and split batch_size 120 evenly "
        f"between the workers' devices; give {fitting}\n"
    )
    assert all(request.verb in ("get", "list") for request in api.requests[before:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"validation": 100}}, "train.min_workers is not set, so its size is fixed"),
        ({"queue": "team"}, "its queue has admitted it with so many pods as it has"),
    ],
)
def test_a_run_of_a_fixed_size_says_how_it_gets_another(
    changes: dict[str, Any],
    words: str,
    run_file: Path,
    controller: Controller,
    capsys: pytest.CaptureFixture[str],
) -> None:
    controller.api.kueue = ("v1beta2",)
    queue = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue"}
    controller.api.add({**queue, "metadata": {"name": "team", "namespace": "default"}})
    change(run_file, **{"train": ELASTIC, **changes})
    assert main(["submit", str(run_file)]) == 0
    capsys.readouterr()
    assert scale(4) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"k8s: mnist: {words}; python -m k8s delete mnist --namespace default")
    assert err.count("\n") == 1
    assert size(controller) == (2, 2)


@pytest.mark.usefixtures("submitted")
def test_an_api_server_whose_jobs_keep_their_size_is_named(
    api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    immutable = "spec.completions: Invalid value: 4: field is immutable"
    api.faults.append(Fault("status", "patch", "jobs", status=422, message=immutable))
    assert scale(4) == 2
    err = capsys.readouterr().err
    assert "field is immutable" in err
    assert "before Kubernetes 1.31 a Job keeps its size" in err
    assert err.count("\n") == 1


def test_a_job_that_no_run_file_made_keeps_its_size(
    submitted: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    del submitted.job()["metadata"]["annotations"]["trainyard/run-file"]
    assert scale(4) == 2
    assert "was not submitted from a run file; it keeps its size" in capsys.readouterr().err
