"""A run ends with its report, and ends as well without it."""

from pathlib import Path

from tests.support import warm


def test_a_run_leaves_its_report_and_no_failing_one_fails_it(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = (
        *("train", "--preset", "softmax", "--steps", "40", "--validation", "400", "--report"),
        *("--data", str(digits), "--run", str(run)),
    )
    (run / "report.html").mkdir(parents=True)  # where nothing can be written
    code, out, err = warm.run(*arguments)
    assert (code, err) == (0, "")
    assert (run / "result.json").exists()
    assert out.splitlines()[-2] == f"results in {run}/"
    assert out.splitlines()[-1].startswith("warning: no report: ")
    assert out.endswith(f"; python -m trainer report --run {run} makes it\n")

    (run / "report.html").rmdir()
    (run / "result.json").unlink()
    code, out, _ = warm.run("report", "--run", str(run))
    halfway = (run / "report.html").read_text()
    assert "In progress" in halfway
    code, out, err = warm.run(*arguments)  # the end comes again, and a report of it
    assert (code, err) == (0, "")
    assert "In progress" not in (run / "report.html").read_text()

    (run / "report.html").unlink()
    code, out, err = warm.run(*arguments)  # finished; what is missing is made
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"report in {run}/report.html"
    assert "Confusion matrix" in (run / "report.html").read_text()
