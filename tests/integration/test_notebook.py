"""docs/notebook.ipynb from top to bottom, and what the Python face says of mistakes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import warm
from tests.support.processes import ROOT, environment
from trainer import notebook
from trainer.errors import ConfigError, DataError, UserError

pytestmark = [pytest.mark.process, pytest.mark.tensorflow]
KERNEL = "from ipykernel import kernelapp; kernelapp.launch_new_instance()"


def texts(cell: Any) -> str:
    """Return all that a cell has put out."""
    found = (out.get("text", out.get("data", {}).get("text/plain", "")) for out in cell["outputs"])
    return "".join(found)


@pytest.mark.early
def test_the_notebook_trains_loses_a_worker_stops_resumes_and_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    content = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    [cell] = [each for each in content.cells if each.source.startswith("settings")]
    # XLA's compiler would cost each of the workers two seconds, and a thousand steps another one.
    assert '"steps": 4000,\n    "report": False' in cell.source
    cell.source = cell.source.replace('"steps": 4000', '"steps": 2400, "xla": "off"')
    requests = warm.lend(tmp_path / "python")
    program = f"from tests.support import warm; warm.borrow({requests}); {KERNEL}"
    command = [sys.executable, "-P", "-c", program, "-f", "{connection_file}"]
    spec = {"name": "tests", "display_name": "tests", "language": "python", "argv": command}
    folder = tmp_path / "jupyter/kernels/tests"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    client = nbclient.NotebookClient(
        content, timeout=300, kernel_name="tests", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(pass_fds=[requests])
    cells = [each for each in content.cells if each.cell_type == "code"]
    shown = [texts(each) for each in cells]
    assert "batch: 32 images a step = 2 x 16, workers: 2" in shown[2]
    assert "test accuracy" in shown[2].splitlines()[-1]
    assert "; starting again" in shown[3]
    assert re.match(r"stopped: stopped at step \d+( of \d+)?; ", shown[3].splitlines()[-1])
    assert "resuming at step" in shown[4]
    ends = [line.partition(": ")[2] for line in shown[5].splitlines()]
    assert [re.sub(r" at step.*", "", end) for end in ends][-1] == "finished"
    assert ends[0].startswith("rank 1: ")
    assert shown[6] == "True"
    assert shown[7].startswith("[(1, ")
    assert len(shown[8].splitlines()) == 10
    assert "computes" in shown[9]
    assert (tmp_path / "bucket/runs/disturbed/report.html").is_file()


def test_mistakes_are_errors_of_one_line(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^preset: 'mlp': no such preset"):
        notebook.train(data="bucket/data", run=run, preset="mlp")
    with pytest.raises(ConfigError, match=r"no config\.json there"):
        notebook.load(run)
    with pytest.raises(DataError, match=r"^[^\n]+$") as caught:
        notebook.train(data=str(tmp_path / "nothing"), run=run, preset="softmax")
    assert str(tmp_path / "nothing") in str(caught.value)


class Quiet:
    """What a training says, without the processes."""

    def __init__(self, arguments: list[str], *_: object, out: Path) -> None:
        self.arguments, self.out = arguments, out

    def close(self) -> None:
        pass


def test_the_end_of_a_training_raises_the_error_of_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "Child", Quiet)
    for code, kind in ((2, ConfigError), (65, DataError), (1, UserError)):
        training = notebook.start(data="d", run=str(tmp_path), ship_logs=False, epochs=2)
        assert "--no-ship-logs" in vars(training._child)["arguments"]
        training._take(training._child, {"event": "started", "rank": 1, "pid": 2**22 + 1})
        training._take(training._child, {"event": "step", "rank": 1, "step": 30})
        training.wait_for_step(20)
        training.kill(1)  # a process that is gone is as good as killed
        with pytest.raises(ConfigError, match=r"^rank 1: no worker of this rank is at work$"):
            training.kill(1)
        training._take(training._child, {"event": "exit", "code": code})
        for _ in range(2):
            with pytest.raises(kind, match=f"ended with code {code}"):
                training.wait()
