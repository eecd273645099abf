"""Validation during a run, and the decision that it has trained enough."""

from trainer import classification
from trainer.runs import checkpoint
from trainer.runs.tensorboard_writer import Scored
from trainer.train import metrics_lines
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
    means = metrics_lines.training_means(at.records)
    scores = {"validation_accuracy": score.accuracy, "validation_loss": score.loss} | means
    at.records.append(metrics_lines.line(run, at.step, at.train_seconds, **scores))
    return checkpoint.best_step(at.validations) == at.step


def is_over(run: Run, at: TrainState) -> bool:
    """Return whether all steps are done, or early stopping ends the run here."""
    best = checkpoint.best_step(at.validations)
    worse = [step for step, _ in at.validations if best is not None and step > best]
    return at.step >= run.total or 0 < run.config.early_stopping <= len(worse)
