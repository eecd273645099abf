import io
import json
import re
import sys
from typing import Any

import pytest

from trainer import progress

FIGURES = {"step": 100, "loss": 0.51234, "accuracy": 0.875, "images_per_second": 123456.7}
VALIDATED = {
    "step": 100,
    "epoch": 1.5003,
    "validation_accuracy": 0.98765,
    "validation_loss": 0.0456,
    "training_accuracy": 0.875,
    "training_loss": 0.51234,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at(step: int, record: dict[str, Any] = FIGURES) -> dict[str, Any]:
    return {**record, "step": step}


def test_the_format_follows_the_setting_and_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(log_format: str) -> str:
        return type(progress.create(log_format)).__name__

    assert [kind(f) for f in ("auto", "text", "json")] == ["TextReporter"] * 2 + ["JsonReporter"]
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert [kind(f) for f in ("auto", "text", "json")] == [
        "BarReporter",
        "TextReporter",
        "JsonReporter",
    ]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = progress.create("text")
    reporter.say("softmax: 1000 steps", steps=1000)
    reporter.warn("disk full")
    reporter.step(FIGURES, 1000)
    reporter.step(VALIDATED, 1000)
    reporter.close()
    assert capsys.readouterr().out.splitlines() == [
        "softmax: 1000 steps",
        "warning: disk full",
        "step    100/1000  loss 0.5123  accuracy 87.50%  123,457 images/s",
        "epoch 1.5/15  step    100/1000  loss 0.5123  accuracy 87.50%  "
        "validation loss 0.0456  accuracy 98.77%",
    ]


def test_plain_lines_are_few_but_no_validation_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = progress.TextReporter(every=3600)
    for step in range(10, 101, 10):
        reporter.step(at(step), 100)
        if step % 50 == 0:
            reporter.step(at(step, VALIDATED), 100)
    steps = [line.split("step")[1].split()[0] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["10/100", "50/100", "100/100", "100/100"]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = progress.create("json")
    reporter.say('a "quoted"\nmessage', steps=1000)
    reporter.warn("disk full")
    reporter.step(FIGURES, 1000)
    reporter.close()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"message": 'a "quoted"\nmessage', "steps": 1000},
        {"warning": "disk full"},
        {**FIGURES, "total_steps": 1000},
    ]


def test_the_bar_shows_lines_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    reporter = progress.create("auto")
    reporter.say("[bold] is no markup here")
    reporter.step(at(50), 100)
    reporter.warn("disk full")
    reporter.step(at(50, VALIDATED), 100)
    reporter.step(at(100), 100)
    reporter.close()
    shown = screen.getvalue()
    assert "[bold] is no markup here" in shown
    assert "warning: disk full" in shown
    assert "epoch 1.5/3  step     50/100  loss 0.5123  accuracy 87.50%  " in shown
    assert "validation loss 0.0456  accuracy 98.77%" in shown
    assert "loss 0.5123" in shown
    assert "100%" in shown


def test_a_narrow_terminal_breaks_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    progress.create("auto").step(at(50, VALIDATED), 100)
    plain = re.sub(r"\x1b\[\d+[A-Z]", "", screen.getvalue())
    lines = [line for line in plain.splitlines() if "loss" in line]
    assert [line.split("loss")[1].split()[0] for line in lines] == ["0.5123", "0.0456"]
    assert lines[1].index("validation") == len("epoch 1.5/3  step     50/100  ")
    assert max(map(len, lines)) <= 80


def test_only_rank_0_speaks_but_all_warn(capsys: pytest.CaptureFixture[str]) -> None:
    follower = progress.Follower(3)
    follower.say("hello")
    follower.step(FIGURES, 1000)
    follower.warn("disk full")
    follower.close()
    assert capsys.readouterr().out == "warning: rank 3: disk full\n"


@pytest.mark.parametrize("log_format", ["text", "json", "auto"])
def test_nothing_that_a_peer_says_steers_the_terminal(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = progress.create(log_format)
    for tell in (reporter.say, reporter.warn, progress.Follower(1).warn):
        tell("rank 1: \x1b]0;title\x07\x1b[2J\u202e\nsecond line")
    reporter.close()
    out = capsys.readouterr().out
    assert out.count("rank 1") >= 3
    assert all(c.isprintable() or c == "\n" for c in out)
    assert out.count("\n") == 3


@pytest.mark.parametrize(
    "ranks",
    [None, "02", [0], [0, 1, 2], [0, 0], [0, -1], [0, 1024], [0, True], [0, 2.0], [[0], [2]]],
)
def test_ranks_that_no_line_can_name_are_counted(ranks: Any) -> None:
    assert [*progress.named({"ranks": ranks}, 2)] == [0, 1]
    assert [*progress.named({"ranks": [0, 2]}, 2)] == [0, 2]
