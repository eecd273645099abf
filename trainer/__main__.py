"""Arguments and exit codes; what each command does is in the module of its name."""

from trainer import process

if __name__ == "__main__":
    process.hold_signals()

import argparse
import contextlib
import errno
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, get_args

from trainer import chaos, gang, presets, sources, supervisor, worker
from trainer import cluster as clusters
from trainer import export as exports
from trainer.config import TrainConfig, nearest, read_yaml
from trainer.errors import ConfigError, UserError, one_line


class Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage, and knows the nearest flag."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} ({self.prog} --help lists all)")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """See argparse; an unknown flag is refused with the nearest known one."""
        namespace, unknown = self.parse_known_args(*args, **kwargs)
        if unknown:
            known = [f"--{field.replace('_', '-')}" for field in TrainConfig.model_fields]
            name = unknown[0].partition("=")[0]
            self.error(f"unknown argument {name!r}{nearest(name, known)}")
        return namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser().parse_args(arguments)
        if options.run_command not in (train, sweep):
            process.default_signals()
        options.run_command(options, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        message = one_line(error)
        if not process.tell_parent(error=message):
            sys.stdout.flush()
            sys.stderr.write(f"trainer: {message}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130  # as a shell counts SIGINT
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        sys.stderr.write(f"trainer: cannot write: {error.strerror}; free some space\n")
        return 1
    return 0


def train(options: argparse.Namespace, arguments: list[str]) -> None:
    """Train: as a forkserver of workers, as the supervisor of one, or as a local gang."""
    flags = {
        name: value
        for name in TrainConfig.model_fields
        if (value := getattr(options, name)) is not None
    }
    config = presets.configure(read_yaml(options.config) if options.config else {}, flags)
    os.environ.setdefault(worker.STARTED, repr(time.time()))
    cluster = clusters.from_environment(os.environ)
    if supervisor.WORKER in os.environ:
        worker.serve(config, cluster or clusters.ALONE)
    elif cluster is None and config.workers > 1:
        gang.run_gang(arguments, config, process.stop_event())
    else:
        supervisor.supervise(arguments, config, cluster or clusters.ALONE, process.stop_event())


def evaluate(options: argparse.Namespace, arguments: list[str]) -> None:
    """Report the figures of a run's weights on the test images of a dataset."""
    del arguments
    with _native_noise_dropped():
        from trainer import evaluate as evaluation

        report = evaluation.evaluate(options.run, options.data)
    sys.stdout.write(evaluation.as_json(report) if options.json else evaluation.as_text(report))


def predict(options: argparse.Namespace, arguments: list[str]) -> None:
    """Read people's own pictures; those that cannot be read are told at the end."""
    del arguments
    from trainer import predict as predicting
    from trainer.restore import restore

    restored = restore(options.run)
    seen, errors = predicting.look(options.pictures, restored.settings.input_shape, options.prepare)
    if seen:
        with _native_noise_dropped():
            predictions = predicting.predict(restored, seen)
        as_json = options.output == "json"
        format_ = predicting.as_json if as_json else predicting.as_text
        sys.stdout.write(format_(predictions))
        if options.show is not None:
            for path in predicting.show(seen, predictions, options.show):
                (sys.stderr if as_json else sys.stdout).write(f"seen: {path}\n")
        sys.stdout.flush()
    for error in errors[:-1]:
        sys.stderr.write(f"trainer: {one_line(error)}\n")
    if errors:
        raise errors[-1]


def export(options: argparse.Namespace, arguments: list[str]) -> None:
    """Write a run's model for other programs."""
    del arguments
    with _native_noise_dropped():
        exports.export(
            options.run, options.to, options.format, lambda line: sys.stdout.write(f"{line}\n")
        )


def compare(options: argparse.Namespace, arguments: list[str]) -> None:
    """Show runs beside each other."""
    del arguments
    from trainer import compare as comparing
    from trainer import curves

    def warn(message: str) -> None:
        sys.stderr.write(f"trainer: warning: {message}\n")

    comparison = comparing.compare(options.runs, warn)
    width = max(80, shutil.get_terminal_size((80, 24)).columns)
    as_json = comparing.as_json(comparison)
    sys.stdout.write(as_json if options.json else comparing.as_text(comparison, width))
    if options.output or not options.json:
        output = curves.write(comparison, options.output or "compare.html")
        if not options.json:
            sys.stdout.write(f"\npage: {output}\n")


def sweep(options: argparse.Namespace, arguments: list[str]) -> None:
    """Train the runs of a sweep file."""
    del arguments
    stop = process.stop_event()
    from trainer import search
    from trainer import sweep as sweeping

    wanted = search.read(options.file)
    if options.plan:
        sys.stdout.write(sweeping.as_text(search.plan(wanted)))
    else:
        sweeping.execute(wanted, stop, max(80, shutil.get_terminal_size((80, 24)).columns))


def tensorboard(options: argparse.Namespace, arguments: list[str]) -> None:
    """Serve runs with TensorBoard until asked to stop."""
    del arguments
    stop = process.stop_event()
    from trainer import tensorboard as boards

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def warn(line: str) -> None:
        sys.stderr.write(f"trainer: warning: {line}\n")

    boards.serve(options.run, options.host, options.port, stop, say, warn)


def report(options: argparse.Namespace, arguments: list[str]) -> None:
    """Write the page of a run, or print its report."""
    del arguments
    if options.text:
        from trainer import facts, terminal

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal may have no block characters
        sys.stdout.write(terminal.as_text(facts.gather(options.run)))
        return
    from trainer import report as reporting

    sys.stdout.write(f"report in {reporting.write(options.run, options.output)}\n")


def inject_faults(options: argparse.Namespace, arguments: list[str]) -> None:
    """Train under faults and tell what became of them."""
    del arguments
    given = {name: getattr(options, name) for name in ("preset", "model", "data")}
    settings = {name: value for name, value in given.items() if value is not None}
    settings |= {"steps": options.steps, "chunk_steps": options.chunk_steps}
    chaos.chaos(
        settings,
        options.workers,
        options.faults,
        options.seed,
        options.kinds.split(","),
        as_json=options.json,
    )


def put(options: argparse.Namespace, arguments: list[str]) -> None:
    """Put a dataset into a folder or bucket."""
    del arguments
    line = sources.put(
        options.source,
        options.to,
        train_count=options.train_count,
        test_count=options.test_count,
        seed=options.seed,
        split=options.shards,
    )
    sys.stdout.write(line + "\n")


def _parser() -> Parser:
    parser = Parser(
        prog="trainer",
        description="Train image classifiers on MNIST-format data.",
        epilog="exit codes: 0 done, 2 bad arguments or configuration, 65 bad data, "
        "69 storage or peers not reached, 75 stopped (run again to resume), 1 anything else",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    evaluating = commands.add_parser(
        "evaluate", help="figures of a run on test images", allow_abbrev=False
    )
    evaluating.add_argument("--run", required=True, metavar="URI", help="the run's folder")
    evaluating.add_argument(
        "--data", metavar="URI", help="dataset to take the test images of (default: the run's)"
    )
    evaluating.add_argument("--json", action="store_true", help="print JSON")
    evaluating.set_defaults(run_command=evaluate)
    _add_report(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_compare(commands)
    _add_sweep(commands)
    _add_tensorboard(commands)
    _add_data(commands)
    _add_chaos(commands)
    return parser


def _add_train(commands: Any) -> None:
    names = "\n".join(
        f"  {name:<20}{preset.summary}\n{'':<22}{_settings(preset.settings)}"
        for name, preset in presets.PRESETS.items()
    )
    parser = commands.add_parser(
        "train",
        help="train a model, or go on with a run",
        description="Train a model, or go on with a run that was interrupted. A preset changes "
        "some of the defaults below; a file and flags win over it.",
        epilog=f"presets, with what they change:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of the settings below")
    for name, field in TrainConfig.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        # argparse takes % for its own
        text = f"{field.description} (default: {field.default})".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            parser.add_argument(flag, metavar=_kind(field.annotation), default=None, help=text)
    parser.set_defaults(run_command=train)


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="read your own pictures of digits",
        description="Read pictures (PNG, JPEG, WebP) with a run's model. Each digit that is found "
        "is prepared as those of MNIST were, whatever the picture's size, colours and light.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, metavar="URI", help="the run's folder")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="file; - is standard input")
    parser.add_argument(
        "--output", choices=("text", "json"), default="text", help="(default: text)"
    )
    parser.add_argument(
        "--show",
        nargs="?",
        const="",
        metavar="DIR",
        help="write NAME.seen.png, the picture beside what the model saw of it, into DIR "
        "(default: beside the picture)",
    )
    parser.add_argument(
        "--prepare",
        choices=("auto", "mnist", "resize"),
        default="auto",
        help="mnist: find digits and prepare each; resize: scale the whole picture; auto: mnist "
        "where the model takes square images of one channel (default: auto)",
    )
    parser.set_defaults(run_command=predict)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="a run's model for other programs",
        description="Write the model of a run for Keras, TensorFlow Serving and ONNX; each file "
        "is loaded again and must give the run's predictions before it is stored.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, metavar="URI", help="the run's folder")
    parser.add_argument("--to", metavar="URI", help="folder for the exports (default: RUN/model)")
    parser.add_argument(
        "--format",
        metavar="LIST",
        help=f"with commas: {', '.join(exports.FORMATS)} (default: those whose packages are there)",
    )
    parser.set_defaults(run_command=export)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="runs beside each other",
        description="Print how runs differ and what they came to, the best first, and write a "
        "page with their curves over each other.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run, or one that holds runs"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="of the page (default: compare.html; with --json no page is written unless asked for)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run_command=compare)


def _add_sweep(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="train a grid or random search, and compare",
        description="Train the runs that a sweep file names, one after the other, and compare "
        "them. The same command skips finished runs and goes on with one that was interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="sweep file, such as docs/sweep.yaml")
    parser.add_argument("--plan", action="store_true", help="print the runs and train none")
    parser.set_defaults(run_command=sweep)


def _add_tensorboard(commands: Any) -> None:
    parser = commands.add_parser(
        "tensorboard",
        help="look at runs in TensorBoard",
        description="Serve the event files of runs with TensorBoard, from the store and while the "
        "runs go on. It checks nobody's identity: --host opens it to others.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run", required=True, metavar="URI", help="folder of a run, or one that holds runs"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on")
    parser.add_argument(
        "--port", type=int, default=6006, metavar="N", help="to listen on (default: 6006)"
    )
    parser.set_defaults(run_command=tensorboard)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="a page of a run's curves, errors and settings",
        description="Write report.html, a page that needs nothing else, into the run's folder. "
        "The run may be unfinished.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, metavar="URI", help="the run's folder")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--output", metavar="FILE", help="write the page to this file instead")
    instead.add_argument(
        "--text", action="store_true", help="print the report, 80 columns wide, and write nothing"
    )
    parser.set_defaults(run_command=report)


def _add_data(commands: Any) -> None:
    parser = commands.add_parser("data", help="put a dataset where runs read it")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    putting = verbs.add_parser("put", help="put a dataset into a folder or bucket")
    putting.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="SOURCE",
        help="mnist (downloaded), digits (drawn), a folder or URI of the four IDX files, or auto: "
        "MNIST_DIR, else the mirrors if they answer, else digits",
    )
    putting.add_argument("--to", required=True, metavar="URI", help="folder or gs://BUCKET/PREFIX")
    putting.add_argument(
        "--train-count",
        "--samples",
        type=int,
        default=60_000,
        metavar="N",
        help="training digits to draw (default: 60000)",
    )
    putting.add_argument(
        "--test-count", type=int, default=10_000, help="test digits to draw (default: 10000)"
    )
    putting.add_argument(
        "--shards",
        type=int,
        default=0,
        metavar="N",
        help="split the training images into N shards, which are streamed (default: 0, no shards)",
    )
    putting.add_argument(
        "--seed", type=int, default=0, help="of the digits and of shuffling (default: 0)"
    )
    putting.set_defaults(run_command=put)


def _add_chaos(commands: Any) -> None:
    parser = commands.add_parser(
        "chaos",
        help="train under injected faults and compare the weights",
        description="Train on this machine, first undisturbed, then while processes are killed, "
        "frozen and stopped, ports are taken and the store fails; every run must end with the "
        "same weights.",
        allow_abbrev=False,
    )
    for name, value, text in (
        ("--workers", 2, "worker processes in the gang"),
        ("--faults", 100, "how many to inject"),
        ("--seed", 7, "of the faults"),
        ("--steps", 6000, "of each run"),
        ("--chunk-steps", 20, "steps of a chunk, the most that a fault may cost"),
    ):
        parser.add_argument(
            name, type=int, default=value, metavar="N", help=f"{text} (default: {value})"
        )
    kinds = ", ".join(f"{kind} ({text})" for kind, text in chaos.KINDS.items())
    parser.add_argument(
        "--kinds",
        default=",".join(chaos.KINDS),
        metavar="LIST",
        help=f"faults to inject, with commas: {kinds} (default: all)",
    )
    parser.add_argument("--preset", metavar="TEXT", help="model to train (default: cnn)")
    parser.add_argument("--model", metavar="TEXT", help="your own, package.module:function")
    parser.add_argument("--data", metavar="URI", help="folder (default: digits are drawn)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run_command=inject_faults)


def _settings(settings: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "nothing"


def _kind(annotation: Any) -> str:
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "N", float: "X"}.get(annotation, "TEXT")


@contextlib.contextmanager
def _native_noise_dropped() -> Iterator[None]:
    """Drop what TensorFlow's libraries write to descriptor 2 while they are loaded.

    They announce their build options there before any setting of theirs can prevent it. When
    loading fails with anything but a message for the user, all of it is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, UserError):
                noise.seek(0)
                os.write(kept, noise.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    process.hold_signals()  # the interpreter's end takes our handlers away before it is over
    sys.exit(code)
