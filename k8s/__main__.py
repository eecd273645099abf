"""Arguments and exit codes; what each command does is in the modules of this package."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from trainer.errors import ConfigError, UserError
from trainer.text import one_line, printable

# Whatever takes long to import is imported by the command that needs it: --help is quick.
if TYPE_CHECKING:
    from k8s.client.cluster import Cluster
    from k8s.spec import RunSpec
    from trainer.config import TrainConfig
    from trainer.storage.base import Storage

INTERRUPTED = 130  # as a shell counts SIGINT


class Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} ({self.prog} --help lists all)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        options = _parser().parse_args(arguments)
        return int(options.command(options) or 0)
    except UserError as error:
        sys.stdout.flush()
        sys.stderr.write(f"k8s: {one_line(error)}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        return 0


def render(options: argparse.Namespace) -> None:
    """Print the objects of a run file."""
    from k8s import manifest

    items = manifest.objects(_read(options))
    if options.output == "json":
        _print_json({"apiVersion": "v1", "kind": "List", "items": items})
    else:
        sys.stdout.write(manifest.as_yaml(items))


def schema(options: argparse.Namespace) -> None:
    """Print the JSON Schema of run files."""
    del options
    from k8s import spec

    _print_json(spec.schema())


def doctor(options: argparse.Namespace) -> int:
    """Check what can be known before submitting."""
    from k8s.commands import doctor as checks

    spec = _read(options)
    cluster = _cluster(options, spec)
    done = []
    for check in checks.examine(cluster, spec):
        done.append(check)
        if options.output == "text":
            _print_check(check)
    if options.output == "json":
        _print_json([checks.as_dict(check) for check in done])
    return 2 if any(check.state == "failed" for check in done) else 0


def submit(options: argparse.Namespace) -> int:
    """Check a run file, and start the run."""
    from k8s.commands import doctor as checks
    from k8s.commands import submit as submission

    spec = _read(options)
    cluster = _cluster(options, spec)
    if cluster.get("Job", spec.name) is None:  # else it has been checked, and only goes on
        failed = 0
        for check in checks.examine(cluster, spec):
            failed += check.state == "failed"
            if check.state != "ok":
                _print_check(check)
        if failed:
            raise ConfigError(
                f"{spec.name}: not submitted: {failed} of the checks failed, see above"
            )
    submission.submit(cluster, spec, _say)
    if options.follow or options.wait:
        return _follow(cluster, spec.name, spec.start_deadline, with_logs=options.follow)
    _say("next: " + _hint("status", spec.name, options))
    for verb, meaning in (
        ("logs", "its log; -f follows"),
        ("result", "its result"),
        ("cancel", "asks it to stop with a checkpoint"),
    ):
        _say(f"      {_hint(verb, spec.name, options):<40}  {meaning}")
    return 0


def status(options: argparse.Namespace) -> None:
    """Tell the state of one run, or of all."""
    from k8s.commands import status as states
    from k8s.commands import submit as submission

    if options.run is None:
        list_runs(options)
        return
    cluster, name, _ = _target(options)
    summary = states.summary(cluster, submission.find(cluster, name))
    if options.output == "json":
        _print_json(summary)
    else:
        states.show_run(summary)


def list_runs(options: argparse.Namespace) -> None:
    """Tell the state of all runs."""
    from k8s.commands import status as states

    cluster = _cluster(options)
    runs = states.all_runs(cluster)
    if options.output == "json":
        _print_json(runs)
    else:
        states.show_table(runs, cluster.namespace)


def logs(options: argparse.Namespace) -> int:
    """Print a run's logs."""
    from k8s.commands import logs as printing
    from k8s.commands import observe
    from k8s.commands import submit as submission
    from k8s.commands.screen import Screen
    from k8s.diagnosis import run_phase

    if options.follow and (options.previous or options.folder):
        raise ConfigError("--follow: shows what comes; leave --previous and --folder out")
    if options.folder:
        return _stored_logs(_folder(options)[0], options.rank)
    cluster, name, spec = _target(options)
    job = cluster.get("Job", name)
    if job is None and not (options.follow or options.previous):
        return _stored_logs(_folder(options)[0], options.rank)
    job = submission.find(cluster, name)
    workers = run_phase.workers(job)
    if options.rank is not None and not 0 <= options.rank < workers:
        raise ConfigError(f"--rank {options.rank}: the run has ranks 0 to {workers - 1}")
    if options.follow:
        deadline = spec.start_deadline if spec else float("inf")
        return _follow(cluster, name, deadline, with_logs=True, rank=options.rank)
    pods = observe.pods(cluster, job)
    lines = printing.from_pods(cluster, pods, options.rank, previous=options.previous)
    if printing.show(lines, Screen(workers)):
        return 0
    if options.previous:
        raise ConfigError(f"--previous: no pod of {name} had one before it; leave it out")
    return _stored_logs(_folder(options)[0], options.rank)


def _stored_logs(folder: "Storage", rank: int | None) -> int:
    from k8s.commands import logs as printing
    from k8s.commands.screen import Screen

    printing.show_stored(folder, rank, Screen(1))
    return 0


def result(options: argparse.Namespace) -> None:
    """Print a run's result, and copy its folder where that is asked for."""
    from k8s.commands import result as ends

    folder, config = _folder(options)
    if options.download:
        count = ends.download(folder, options.download)
        told = printable(f"{count} objects of {folder.uri} copied to {options.download}")
        sys.stderr.write(f"{told}\n")
    values = ends.read(folder, config)
    if options.output == "json":
        _print_json(values)
    else:
        sys.stdout.write(ends.as_text(values, folder))


def cancel(options: argparse.Namespace) -> None:
    """Ask a run to stop with a checkpoint."""
    from k8s.commands import submit as submission

    cluster, name, _ = _target(options)
    submission.cancel(cluster, name, _say)


def delete(options: argparse.Namespace) -> None:
    """Remove a run from the cluster."""
    from k8s.commands import submit as submission

    cluster, name, _ = _target(options)
    submission.delete(cluster, name, _say)


def _read(options: argparse.Namespace) -> "RunSpec":
    from k8s import spec

    return spec.read(options.run, namespace=options.namespace)


def _cluster(options: argparse.Namespace, spec: "RunSpec | None" = None) -> "Cluster":
    from k8s.client.cluster import Cluster

    return Cluster(options.context, options.namespace or (spec.namespace if spec else None))


def _target(options: argparse.Namespace) -> tuple["Cluster", str, "RunSpec | None"]:
    """Return cluster and name of a run that is given by its name or its run file."""
    if options.run is None:
        raise ConfigError("RUN is missing: give a run file or a run's name")
    if _is_file(options.run):
        spec = _read(options)
        return _cluster(options, spec), spec.name, spec
    return _cluster(options), options.run, None


def _is_file(run: str) -> bool:
    return "/" in run or run.endswith((".yaml", ".yml"))


def _folder(options: argparse.Namespace) -> tuple["Storage", "TrainConfig | None"]:
    """Return a run's folder and settings, by the run file or the run in the cluster.

    With --folder there are no settings.
    """
    from k8s.commands import run_store

    run_store.use(options.storage_endpoint)
    if options.folder:
        return run_store.open_folder(options.folder, None), None
    if options.run is None:
        raise ConfigError("RUN is missing: give a run file, a run's name, or --folder URI")
    if _is_file(options.run):
        spec = _read(options)
        return run_store.of_spec(spec), spec.config
    cluster = _cluster(options)
    job = cluster.get("Job", options.run)
    if job is None:
        raise ConfigError(
            f"{options.run}: no such run in namespace {cluster.namespace}; if it is gone from the "
            "cluster, give its run file instead of its name, or --folder gs://..."
        )
    return run_store.of_job(cluster, job)


def _follow(
    cluster: "Cluster",
    name: str,
    start_deadline: float,
    *,
    with_logs: bool,
    rank: int | None = None,
) -> int:
    from k8s.commands.follow import Follower

    try:
        return Follower(cluster, name, start_deadline, with_logs, rank).run()
    except KeyboardInterrupt:
        _say("")
        _say(f"{name} goes on; come back with: python -m k8s logs {name} -f{cluster.flags}")
        _say(f"or stop it with: python -m k8s cancel {name}{cluster.flags}")
        return INTERRUPTED


def _hint(verb: str, name: str, options: argparse.Namespace) -> str:
    given = options.run if _is_file(options.run) else name
    flags = "".join(
        f" --{flag} {value}"
        for flag in ("context", "namespace")
        if (value := getattr(options, flag)) is not None
    )
    return f"python -m k8s {verb} {given}{flags}"


def _say(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()


def _print_check(check: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    mark, style = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}[
        check.state
    ]
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"{mark} ", style) + Text(printable(f"{check.name:<12} {check.text}")))


def _print_json(values: Any) -> None:
    import json

    sys.stdout.write(json.dumps(values, indent=2) + "\n")  # escapes all that is not ASCII
    sys.stdout.flush()


def _parser() -> Parser:
    parser = Parser(
        prog="k8s",
        description="Train in a Kubernetes cluster. RUN is a run file such as runs/mnist-cnn.yaml "
        "or, where it is in the cluster, a run's name.",
        epilog="exit codes: 0 done, 2 bad arguments, run file or permissions, 65 bad data, 69 "
        "cluster or storage not reached; submit --follow and --wait, logs -f: 0 succeeded, 1 "
        "failed, 69 its result is not seen from here, 124 deadline, 125 never started, 130 left by "
        "Ctrl-C",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str, run: str | None = "required") -> Any:
        its = commands.add_parser(name, help=text, description=command.__doc__, allow_abbrev=False)
        its.set_defaults(command=command)
        if run:
            its.add_argument("run", metavar="RUN", nargs=None if run == "required" else "?")
        its.add_argument("--context", help="of kubectl (default: the current one)")
        its.add_argument("-n", "--namespace", help="default: the run file's, else the context's")
        return its

    def add_output(its: Any, other: str = "text") -> None:
        its.add_argument("-o", "--output", choices=(other, "json"), default=other, help="format")

    def add_folder(its: Any) -> None:
        its.add_argument("--folder", metavar="URI", help="of the run, instead of RUN's")
        its.add_argument(
            "--storage-endpoint", metavar="URL", help="of the store, as seen from here"
        )

    add_output(add("render", render, "print a run's objects"), "yaml")
    add("schema", schema, "print the JSON Schema of run files", None)
    add_output(add("doctor", doctor, "check all that can be known before submitting"))
    submitting = add("submit", submit, "check a run file and start the run")
    submitting.add_argument("-f", "--follow", action="store_true", help="show its logs to its end")
    submitting.add_argument("--wait", action="store_true", help="wait for its end, without logs")
    add_output(add("status", status, "a run's phase, progress and first cause", "optional"))
    add_output(add("list", list_runs, "all runs", None))
    logging = add("logs", logs, "a run's logs, also when its pods are gone", "optional")
    logging.add_argument("-f", "--follow", action="store_true", help="go on until the run is over")
    logging.add_argument("--rank", type=int, metavar="K", help="of one rank only")
    logging.add_argument("--previous", action="store_true", help="of the pods before these")
    add_folder(logging)
    ending = add("result", result, "a run's result, from its folder", "optional")
    ending.add_argument("--download", metavar="DIR", help="copy the run's folder there")
    add_output(ending)
    add_folder(ending)
    add("cancel", cancel, "ask a run to store a checkpoint and stop")
    add("delete", delete, "remove a run from the cluster")
    return parser


if __name__ == "__main__":
    sys.exit(main())
