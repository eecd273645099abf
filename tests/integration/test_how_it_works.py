"""Every command of docs/how-it-works.md, and that they show what the page says."""

import re
from pathlib import Path

import pytest
import yaml

from k8s import run_file
from tests.support import pages, series
from tests.support.processes import ROOT

pytestmark = [pytest.mark.process, pytest.mark.tensorflow]

PAGE = ROOT / "docs/how-it-works.md"
TRAINING, CHAOS = pages.blocks(PAGE)


@series.only_long  # the notebook's test has such a gang, too
def test_a_gang_of_two_shares_each_batch_and_its_report_shows_how(tmp_path: Path) -> None:
    out = pages.run(TRAINING, tmp_path)
    quoted = re.search(r"`(batch: .*)`", PAGE.read_text())
    assert quoted is not None
    assert f"\n{quoted[1]}, workers: 2\n" in out
    page = (tmp_path / "bucket/runs/two/report.html").read_text()
    assert "batch of 32 images = 2 &times; 16" in page
    assert 'aria-label="Computing, waiting and adding up of each rank in 4 steps."' in page


@series.only_long
def test_a_killed_worker_changes_no_weights(tmp_path: Path) -> None:
    assert "1 faults" in (out := pages.run(CHAOS, tmp_path))
    assert "weights equal" in out


def test_its_run_file_for_eight_machines_is_one() -> None:
    [changes] = pages.blocks(PAGE, "yaml")
    values = yaml.safe_load((ROOT / "runs/gcs.yaml").read_text()) | yaml.safe_load(changes)
    assert run_file.parse(values, "gcs.yaml").workers == 8


def test_the_glossary_has_the_words_of_the_concepts() -> None:
    concepts = (ROOT / "README.md").read_text().partition("## Concepts")[2].partition("## ")[0]
    words = {word.lower() for word in re.findall(r"- \*\*(.*?)\*\*", concepts)}
    glossary = PAGE.read_text().partition("## Glossary")[2]
    assert words <= set(re.findall(r"\*\*(.*?)\*\*", glossary))
