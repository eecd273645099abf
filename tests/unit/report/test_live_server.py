"""The server of a run in progress, asked as browsers ask, and as others might."""

import json
from pathlib import Path

import pytest
from werkzeug.test import Client

from tests.support.folders import make_run
from trainer.errors import UnavailableError
from trainer.report import live_server, run_page
from trainer.report.facts import Facts
from trainer.report.live import Live
from trainer.report.live_server import Watcher
from trainer.report.live_view import Seen
from trainer.runs import run_folder
from trainer.storage.base import open_storage

HERE = {"Host": "127.0.0.1:7007"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def client(watcher: Watcher) -> Client:
    return Client(live_server.app(watcher, b"<!doctype html>the page"))


def watching(folder: Path) -> Watcher:
    watcher = Watcher(Live(open_storage(str(folder))))
    watcher.look()
    return watcher


@pytest.mark.parametrize("host", ["127.0.0.1:7007", "localhost:7007", "localhost", "127.0.0.1"])
def test_this_machine_is_answered(run: Path, host: str) -> None:
    answer = client(watching(run)).get("/", headers={"Host": host})
    assert (answer.status_code, answer.text) == (200, "<!doctype html>the page")


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:7007", "127.0.0.1.example.com", "127.0.0.1:7007@a.b", ""]
)
@pytest.mark.parametrize("path", ["/", "/state", "/report"])
def test_a_name_that_leads_here_from_elsewhere_is_refused(run: Path, host: str, path: str) -> None:
    answer = client(watching(run)).get(path, headers={"Host": host})
    assert answer.status_code in (400, 403)
    assert "cnn" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(run: Path, method: str) -> None:
    answer = client(watching(run)).open("/state", method=method, headers=HERE)
    assert answer.status_code == 405


@pytest.mark.parametrize(
    "path",
    ["/config.json", "/../config.json", "/picture/0", "/picture/99", "/picture/x"],
)
def test_nothing_else_is_there(run: Path, path: str) -> None:
    assert client(watching(run)).get(path, headers=HERE).status_code == 404


@pytest.mark.parametrize("path", ["/", "/state", "/missing"])
def test_every_answer_forbids_what_the_page_does_not_need(run: Path, path: str) -> None:
    headers = client(watching(run)).get(path, headers=HERE).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers


def test_what_has_not_changed_is_not_sent_again(run: Path) -> None:
    watcher = watching(run)
    first = client(watcher).get("/state", headers=HERE)
    assert first.json
    assert first.json["state"] == "finished"
    known = {**HERE, "If-None-Match": first.headers["ETag"]}
    again = client(watcher).get("/state", headers=known)
    assert (again.status_code, again.data) == (304, b"")
    (run / run_folder.RESULT).unlink()
    watcher._live.finished = False
    watcher.look()
    changed = client(watcher).get("/state", headers=known)
    assert changed.status_code == 200
    assert changed.json
    assert changed.json["state"] == "training"


def test_a_page_is_answered_before_the_first_look(run: Path) -> None:
    answer = client(Watcher(Live(open_storage(str(run))))).get("/state", headers=HERE)
    assert answer.json
    assert answer.json["words"] == "its folder is being read"


def test_the_report_of_a_finished_run_is_made_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Facts] = []

    def as_page(found: Facts) -> bytes:
        made.append(found)
        return b"the report"

    monkeypatch.setattr(run_page, "as_page", as_page)
    asked = client(watching(run))
    answers = [asked.get("/report", headers=HERE) for _ in range(2)]
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "the report")] * 2
    assert [found.of_result("steps") for found in made] == [1000]


def test_a_report_that_cannot_be_made_says_why_on_one_line(tmp_path: Path) -> None:
    answer = client(watching(tmp_path)).get("/report", headers=HERE)
    assert answer.status_code == 503
    assert answer.text.count("\n") == 1
    assert "no config.json there" in answer.text


def test_a_store_that_fails_is_named_and_what_was_known_stays(run: Path) -> None:
    trouble: list[bool] = []

    def beside() -> Seen:
        if trouble:
            raise UnavailableError("cannot reach\nthe store")
        return Seen()

    watcher = Watcher(Live(open_storage(str(run))), beside)
    watcher.look()
    trouble.append(True)
    watcher.look()
    shown = json.loads(watcher.state())
    assert shown["trouble"] == "cannot reach the store"
    assert shown["progress"]["words"] == "step 1,000 of 1,000"
