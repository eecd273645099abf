"""Validation during a run, and the decision that it has trained enough."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer import classification
from trainer.runs import checkpoint
from trainer.runs.tensorboard_writer import Scored
from trainer.train.run import Run
from trainer.train.scoring import Scorer
from trainer.train.state import TrainState


def is_due(run: Run, step: int) -> bool:
    """Return whether a validation follows this step."""
    return bool(run.eval_steps) and (step % run.eval_steps == 0 or step == run.total)


def validate(run: Run, at: TrainState, scorer: Scorer) -> bool:
    """Score the validation split and return whether it is the best score so far."""
    split = run.dataset.validation
    at.validated = Scored(at.step, scorer.logits(at.tensors, split), split)
    score = classification.score(at.validated.logits, split.labels)
    at.validations.append((at.step, score.accuracy))
    at.record(
        run,
        validation_accuracy=score.accuracy,
        validation_loss=score.loss,
        **training_means(at.records),
    )
    return checkpoint.best_step(at.validations) == at.step


def training_means(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return mean loss and accuracy of the steps since the last validation, from metrics.jsonl.

    The names differ from those of a chunk's means, which the curves show.
    """
    lines: list[tuple[int, Mapping[str, Any]]] = []
    before = 0
    for line in records:
        if "loss" in line:
            lines.append((line["step"] - before, line))
            before = line["step"]
        else:
            lines = []
    steps = sum(count for count, _ in lines)
    return {
        f"training_{name}": sum(count * line[name] for count, line in lines) / steps
        for name in ("loss", "accuracy")
        if steps
    }


def is_over(run: Run, at: TrainState) -> bool:
    """Return whether all steps are done, or early stopping ends the run here."""
    best = checkpoint.best_step(at.validations)
    worse = [step for step, _ in at.validations if best is not None and step > best]
    return at.step >= run.total or 0 < run.config.early_stopping <= len(worse)
