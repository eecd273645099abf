"""The verbs of a cluster, their errors and exit codes; each verb is in k8s.commands."""

import os
import sys

# python -m puts the current directory first on the path. A random.py of the user's, or of whose
# run is there, would come before Python's own. In a checkout it is where the program itself is.
if (
    __name__ == "__main__"
    and not sys.flags.safe_path
    and sys.path[0] != os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
):
    del sys.path[0]

from collections.abc import Sequence

from trainer.common.command_line import Program

VERBS = {
    name: (f"k8s.commands.{name}", text)
    for name, text in {
        "render": "Print the objects of a run file.",
        "schema": "Print the JSON Schema of run files.",
        "doctor": "Check everything that can be checked before submitting.",
        "submit": "Check a run file and start the run.",
        "sweep": "Train the runs of a sweep file, each as a Job, and compare them.",
        "status": "Show a run's phase and progress, and what is wrong.",
        "list": "Show all runs in the namespace.",
        "watch": "Show a run on a page while it trains.",
        "logs": "Print a run's logs, even after its pods are gone.",
        "result": "Print a run's result, from its folder.",
        "scale": "Change the number of a run's workers while it trains.",
        "cancel": "Ask a run to store a checkpoint and stop.",
        "delete": "Remove a run from the cluster.",
    }.items()
}
PROGRAM = Program(
    name="k8s",
    description="Train in a Kubernetes cluster. RUN is a run file such as runs/s3.yaml "
    "or, if the run is in the cluster, its name.",
    epilog="exit codes: 0 done, 2 bad arguments, run file or permissions, 65 bad data, 69 "
    "cluster or storage not reached; submit --follow and --wait, logs -f: 0 succeeded, 1 "
    "failed, 69 its result cannot be read from here, 124 deadline, 125 never started, 130 "
    "left by Ctrl-C",
    commands=VERBS,
)


def main(arguments: Sequence[str] | None = None, program: Program = PROGRAM) -> int:
    """Run one verb and return its exit code."""
    return program.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
