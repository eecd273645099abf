"""``watch`` of a run in a real cluster: what its page shows, from its pods to its report."""

import json
import re
import signal
import time
import urllib.request
from typing import Any

from tests.support.clusters import Space, figure

LONG = {"preset": "cnn", "steps": 2000, "chunk_steps": 20}


def told(address: str) -> Any:
    with urllib.request.urlopen(f"{address}state", timeout=60) as answer:
        return json.loads(answer.read())


def test_a_page_follows_a_run_through_a_lost_worker_to_its_report(space: Space) -> None:
    path = space.run_file(train={**LONG, "report": True})
    assert space.k8s("submit", path).code == 0
    with space.start("watch", path) as watch:
        try:
            assert watch.stdout is not None
            line = watch.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert found, line
            state = space.until(lambda: (s := told(found[0]))["state"] == "training" and s)
            print(json.dumps(state))
            space.kill_worker(path, 1)
            began = time.monotonic()
            state = space.until(lambda: (s := told(found[0]))["state"] == "restarting" and s)
            figure("watch names a killed worker after", f"{time.monotonic() - began:.1f} s")
            print(json.dumps(state))
            state = space.until(lambda: (s := told(found[0]))["state"] == "training" and s)
            print(json.dumps(state))
            state = space.until(lambda: (s := told(found[0]))["state"] == "finished" and s, 600)
            print(json.dumps(state))
            with urllib.request.urlopen(f"{found[0]}report", timeout=60) as answer:
                assert "Confusion matrix" in answer.read().decode()
            watch.send_signal(signal.SIGINT)
            assert watch.wait(60) == 0
        finally:
            watch.kill()
