"""Where a run's time went, by its result and by a stopwatch."""

import json
import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from tests.support import processes, series, warm

CHUNK, STEPS, KILLS = 40, 2400, (600, 1200, 1800)
TOLERANCE = 0.02


@series.only_long
def test_three_kills_cost_what_a_stopwatch_says(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = (
        *("train", "--preset", "cnn", "--workers", "2", "--data", str(data), "--run", str(run)),
        *("--steps", str(STEPS), "--chunk-steps", str(CHUNK), "--no-report", "--validation", "0"),
        *("--log-format", "json"),
    )
    assert warm.run("train", "--help")[0] == 0  # TensorFlow is loaded for all that follow
    began, ends, kills = time.time(), list[tuple[int, float]](), list(KILLS)
    with warm.running(*job) as gang:
        assert gang.stdout
        for text in gang.stdout:
            now, line = time.time(), json.loads(text)
            if "loss" in line:
                ends.append((line["step"], now))
            if kills and line.get("step", 0) >= kills[0]:
                kills.pop(0)
                os.kill(processes.workers(gang.pid)[1], signal.SIGKILL)
        assert gang.wait(processes.LIMIT) == 0
    assert not kills
    stored = run / "result.json"
    wall, result = stored.stat().st_mtime - began, json.loads(stored.read_text())
    assert result["wall_seconds"] == pytest.approx(wall, rel=TOLERANCE)
    # A chunk ends one pace after the other, or after a restart.
    gaps = [after - before for (_, before), (_, after) in pairwise(ends)]
    pace = median(gaps)
    stopped = sum(gap - pace for gap in gaps if gap > 4 * pace) + ends[0][1] - began - pace
    causes = result["lost_seconds"]
    assert [cause for cause in causes if cause.startswith("restarting")] == ["restarting: killed"]
    outside = ("restarting: killed", "starting", "repeating")
    told = sum(causes.get(cause, 0.0) for cause in outside)
    assert told / wall == pytest.approx(stopped / wall, abs=TOLERANCE)
    assert result["goodput"] == pytest.approx(1 - sum(causes.values()) / wall, abs=TOLERANCE)
