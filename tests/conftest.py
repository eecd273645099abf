import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import mnist, needs, series, shared, warm
from tests.support.stores import stores
from trainer.data import sources

__all__ = ["stores"]  # a fixture

# Else each of the many processes that they start would compile all that it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell that starts the tests in the background has SIGINT ignored, and so would every
# process they start: the ones that end by Ctrl-C would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup that is so of SIGHUP, too; what has a handler here comes to them as it is by default.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# An example that takes long on a busy machine is no failure. Short series try the same examples
# every time, so that what passed once passes again; the long ones look for new ones.
hypothesis.settings.register_profile(
    "trainyard",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=not series.LONG,
    max_examples=series.length(30, 1000),
)
hypothesis.settings.load_profile("trainyard")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help="leave out tests that need TensorFlow, processes, a browser or a cluster",
    )
    parser.addoption("--slow", action="store_true", help="leave out what --fast runs")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("fast"):
        needs.GUARD.allow({"process"})  # as pytest-xdist starts some


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.getoption("fast") and collection_path.match("test_*.py"):
        return needs.is_slow(collection_path) or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in needs.of_folder(item.path):
            item.add_marker(marker)
    slow = {item for item in items if any(map(item.get_closest_marker, needs.MARKERS))}
    left_out = slow if config.getoption("fast") else {*items} - slow
    if config.getoption("fast") or config.getoption("slow"):
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
    _have_early_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _have_early_first(items: list[pytest.Item], count: int) -> None:
    """Have each of pytest's processes begin with tests that take long, so that none ends last.

    They take equal parts, one after the other, and then each other's last tests (worksteal).
    """
    early = [item for item in items if item.get_closest_marker("early")]
    others = [item for item in items if item not in {*early}]
    items.clear()
    for part in range(count):
        start, end = (len(others) * each // count for each in (part, part + 1))
        items += early[part::count] + others[start:end]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    yield
    assert not needs.GUARD.refused, needs.GUARD.refused[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    needs.GUARD.allow({marker.name for marker in item.iter_markers()})
    result = yield
    needs.GUARD.allow(set(needs.MARKERS))
    return result


@pytest.fixture(autouse=True)
def environment_stays() -> Iterator[None]:
    """Undo what a command did to this process's environment, such as where it reaches a store."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ |= before


@pytest.fixture(autouse=True, scope="module")
def garbage_is_looked_for_once() -> None:
    """Keep what there is by now out of later collections, of which Keras makes one a model.

    Among TensorFlow's own objects and the graphs that other modules left, one takes 0.2 s.
    """
    if "keras" in sys.modules:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST, or drawn digits where there is none: a third as many are enough for the tests."""

    def make(folder: Path) -> None:
        sources.put("digits", str(folder), train_count=20_000, test_count=2000)

    return mnist.find_mnist() or shared.once(tmp_path_factory, "drawn", make)


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the preset cnn, for tests that only read it."""

    def make(folder: Path) -> None:
        train = ("train", "--preset", "cnn", "--data", str(data), "--run", str(folder))
        code, _, err = warm.run(*train, "--steps", "500")
        assert code == 0, err

    return shared.once(tmp_path_factory, "trained", make)
