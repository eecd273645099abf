"""Commands and exit codes; what each command does is in the module of its name."""

from trainer import status
from trainer.gang import process

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

from trainer import cluster as clusters
from trainer import presets
from trainer.cli import arguments as command_line
from trainer.config import TrainConfig, read_yaml
from trainer.data import sources
from trainer.errors import UserError
from trainer.gang import local_gang, supervisor, worker
from trainer.inference import export as exports
from trainer.testing import chaos
from trainer.text import one_line, printable
from trainer.train.quick_import import quick_imports


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = command_line.create().parse_args(arguments)
        if options.command not in ("train", "sweep"):
            process.default_signals()
        COMMANDS[options.command](options, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        message = one_line(error)
        if not status.tell_parent(error=message):
            sys.stdout.flush()
            sys.stderr.write(f"trainer: {message}\n")
        return error.exit_code
    except MemoryError:
        sys.stderr.write("trainer: out of memory; give it more, or smaller data\n")
        return 1
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
        local_gang.run_gang(arguments, config, process.stop_event())
    else:
        supervisor.supervise(arguments, config, cluster or clusters.ALONE, process.stop_event())


def evaluate(options: argparse.Namespace, arguments: list[str]) -> None:
    """Report the figures of a run's weights on the test images of a dataset."""
    del arguments
    with _native_noise_dropped():
        with quick_imports():
            from trainer.train import evaluate as evaluation

        report = evaluation.evaluate(options.run, options.data, options.model)
    sys.stdout.write(evaluation.as_json(report) if options.json else evaluation.as_text(report))


def predict(options: argparse.Namespace, arguments: list[str]) -> None:
    """Read people's own pictures; those that cannot be read are told at the end."""
    del arguments
    from trainer.inference import predict as predicting
    from trainer.runs.restore import restore_with

    restored = restore_with(options.run, options.model)
    with _native_noise_dropped():
        predicting.check_large(restored)
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
            options.run,
            options.to,
            options.format,
            lambda line: sys.stdout.write(f"{printable(line)}\n"),
            options.model,
        )


def compare(options: argparse.Namespace, arguments: list[str]) -> None:
    """Show runs beside each other."""
    del arguments
    from trainer.report import compare as comparing
    from trainer.report import compare_page

    def warn(message: str) -> None:
        sys.stderr.write(f"trainer: warning: {printable(message)}\n")

    comparison = comparing.compare(options.runs, warn)
    width = max(80, shutil.get_terminal_size((80, 24)).columns)
    as_json = comparing.as_json(comparison)
    sys.stdout.write(as_json if options.json else comparing.as_text(comparison, width))
    if options.output or not options.json:
        output = compare_page.write(comparison, options.output or "compare.html")
        if not options.json:
            sys.stdout.write(f"\npage: {output}\n")


def sweep(options: argparse.Namespace, arguments: list[str]) -> None:
    """Train the runs of a sweep file."""
    del arguments
    stop = process.stop_event()
    from trainer.gang import search
    from trainer.gang import sweep as sweeping

    wanted = search.read(options.file)
    if options.plan:
        sys.stdout.write(sweeping.as_text(search.plan(wanted)))
    else:
        sweeping.execute(wanted, stop, max(80, shutil.get_terminal_size((80, 24)).columns))


def tensorboard(options: argparse.Namespace, arguments: list[str]) -> None:
    """Serve runs with TensorBoard until asked to stop."""
    del arguments
    stop = process.stop_event()
    from trainer.report import tensorboard as boards

    def say(line: str) -> None:
        sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()

    def warn(line: str) -> None:
        sys.stderr.write(f"trainer: warning: {printable(line)}\n")

    boards.serve(options.run, options.host, options.port, stop, say, warn)


def report(options: argparse.Namespace, arguments: list[str]) -> None:
    """Write the page of a run, or print its report."""
    del arguments
    if options.text:
        from trainer.report import facts, terminal

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal may have no block characters
        sys.stdout.write(terminal.as_text(facts.gather(options.run)))
        return
    from trainer.report import html as reporting

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


COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "predict": predict,
    "export": export,
    "compare": compare,
    "sweep": sweep,
    "tensorboard": tensorboard,
    "data": put,
    "chaos": inject_faults,
}


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
