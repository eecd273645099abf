"""The command line: every command, its flags, and what they are for."""

import argparse
from typing import Any, NoReturn, get_args

from trainer import presets
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.inference import export
from trainer.testing import chaos
from trainer.text import nearest


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


def create() -> Parser:
    """Return the parser of all commands; ``command`` tells which one."""
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
    _add_own_model(evaluating)
    evaluating.add_argument("--json", action="store_true", help="print JSON")
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
        "some of the defaults below; a file and flags win over it. A model of your own has the "
        "defaults, unless a preset is named too.",
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


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="read your own pictures of digits",
        description="Read pictures (PNG, JPEG, WebP) with a run's model. Each digit that is found "
        "is prepared as those of MNIST were, whatever the picture's size, colours and light.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, metavar="URI", help="the run's folder")
    _add_own_model(parser)
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


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="a run's model for other programs",
        description="Write the model of a run for Keras, TensorFlow Serving and ONNX; each file "
        "is loaded again and must give the run's predictions before it is stored.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, metavar="URI", help="the run's folder")
    _add_own_model(parser)
    parser.add_argument("--to", metavar="URI", help="folder for the exports (default: RUN/model)")
    parser.add_argument(
        "--format",
        metavar="LIST",
        help=f"with commas: {', '.join(export.FORMATS)} (default: those whose packages are there)",
    )


def _add_own_model(parser: Any) -> None:
    parser.add_argument(
        "--model",
        metavar="TEXT",
        help="your own model, package.module:function, where the run was trained with one; what "
        "the run's folder names is never imported",
    )


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


def _settings(settings: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "nothing"


def _kind(annotation: Any) -> str:
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "N", float: "X"}.get(annotation, "TEXT")
