"""Arguments and exit codes; what each command does is in the module of its name."""

from trainer import process

if __name__ == "__main__":
    process.hold_signals()

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, get_args

from trainer import chaos, gang, presets, sources, supervisor, worker
from trainer import cluster as clusters
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
        if options.run_command is not train:
            process.default_signals()
        options.run_command(options, arguments)
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
        "--train-count", type=int, default=60_000, help="training digits to draw (default: 60000)"
    )
    putting.add_argument(
        "--test-count", type=int, default=10_000, help="test digits to draw (default: 10000)"
    )
    putting.add_argument("--seed", type=int, default=0, help="of the digits (default: 0)")
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
