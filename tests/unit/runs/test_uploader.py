import sys
import threading

import pytest

from trainer.errors import ConfigError, UnavailableError
from trainer.runs.uploader import Uploader


def fail() -> None:
    raise UnavailableError("disk full")


def wait() -> None:
    for thread in threading.enumerate():
        if thread.name == "uploader":
            thread.join()


def test_one_upload_is_in_flight_at_most() -> None:
    uploader, told = Uploader(print), list[str]()
    release = threading.Event()

    def slow() -> None:
        release.wait(60)
        told.append("slow")

    assert uploader.submit(slow)
    assert not uploader.submit(lambda: told.append("too early"))
    release.set()
    uploader.finish(lambda: told.append("last"))
    assert told == ["slow", "last"]
    assert uploader.submit(lambda: told.append("next"))
    uploader.finish(lambda: None)
    assert told == ["slow", "last", "next"]


def test_an_error_is_told_and_the_next_upload_tried() -> None:
    told: list[str] = []
    uploader = Uploader(told.append)
    assert uploader.submit(fail)
    wait()
    assert told == []  # no warning comes from another thread
    assert uploader.submit(lambda: None)
    assert told == ["disk full; trying again with the next checkpoint"]
    wait()
    assert uploader.submit(lambda: None)
    wait()
    assert len(told) == 1


def test_what_would_fail_again_ends_the_next_upload() -> None:
    told: list[str] = []
    uploader = Uploader(told.append)

    def diverged() -> None:
        raise ConfigError("tensor w became NaN")

    assert uploader.submit(diverged)
    wait()
    with pytest.raises(ConfigError, match="tensor w became NaN"):
        uploader.submit(lambda: told.append("stored"))
    wait()
    assert told == []


def test_the_last_upload_must_succeed() -> None:
    uploader = Uploader(print)
    assert uploader.submit(fail)
    with pytest.raises(UnavailableError, match="disk full"):
        uploader.finish(fail)
    done: list[str] = []
    uploader.finish(lambda: done.append("it"))  # an earlier failure is made good by it
    assert done == ["it"]


def test_a_defect_in_an_upload_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: shown.append(kind))

    def broken() -> None:
        raise ZeroDivisionError

    uploader = Uploader(print)
    assert uploader.submit(broken)
    wait()
    assert shown == [ZeroDivisionError]
