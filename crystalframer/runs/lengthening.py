"""A training resumes from another's last state, in a folder of its own: more epochs, or other settings of training.

Without averaging, the learning rate depends on the step alone, and what follows is bit by bit the training that was
asked for so many epochs at once. With averaging, the rate stood still over the last epochs and now falls again, and the
average is taken anew over the new last epochs: a training of nearly the same course.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crystalframer.config import TrialConfig
from crystalframer.errors import UserError
from crystalframer.resolving import trial_from_dict
from crystalframer.runs.run_directory import Attempt, RunDirectory

MAY_CHANGE = ("train.epochs", "train.patience", "train.average_epochs")
"""What a longer training may have otherwise."""


def longer_trial(run: Path, settings: Mapping[str, Any]) -> TrialConfig:
    """Return the settings of a finished training with more epochs.

    Args:
        run: its folder.
        settings: dotted settings of the longer one that differ, `MAY_CHANGE` alone.

    Raises:
        UserError: the training is not finished or was given minutes, another setting is to change, or nothing would
            be left to do.
    """
    from crystalframer.training.checkpoint import read_checkpoint

    if (finished := RunDirectory(run).finished()) is None:
        raise UserError(f"{run} holds no finished training; resume one that was stopped by its own command")
    if other := [key for key in settings if key not in MAY_CHANGE]:
        raise UserError(f"a longer training may differ in {', '.join(MAY_CHANGE)}, not in {', '.join(other)}")
    if (minutes := finished.config.train.minutes) is not None:
        raise UserError(f"{run} took the {minutes:g} minutes it was given; start another training with train.epochs=N")
    plain = finished.config.to_dict()
    plain["train"] |= {key.partition(".")[2]: value for key, value in settings.items()}
    trial = trial_from_dict(plain)
    errors = [epoch["val_mae"] for epoch in read_checkpoint(finished.directory.checkpoint).history]
    if trial.train.is_over(errors):
        raise UserError(
            f"{run} is over after {len(errors)} epochs with train.epochs={trial.train.epochs} and "
            f"train.patience={trial.train.patience}; give a larger --set train.epochs=N, or train.patience=N where "
            "that ended it"
        )
    return trial


def inherit(attempt: Attempt, config: TrialConfig, parent: RunDirectory) -> None:
    """Copy a parent's checkpoint and metrics into an attempt's directory, unless it has a checkpoint already.

    The weights, the averages, the optimiser's moments, the random generators and the history stay the parent's; the
    settings are the trial's own from here on.

    Raises:
        UserError: the parent has no checkpoint, or differs in what cannot change while a model trains.
    """
    from crystalframer.training.checkpoint import read_checkpoint, with_settings, write_checkpoint

    directory = attempt.directory
    if directory.checkpoint.exists():
        return
    checkpoint = read_checkpoint(parent.checkpoint)
    if checkpoint.trial.model != config.model or checkpoint.trial.data != config.data:
        raise UserError(f"{directory.path} cannot resume {parent.path}: another model or other data")
    attempt.check_current()
    attempt.take_over(record for record in parent.records() if record.step <= len(checkpoint.history))
    write_checkpoint(directory.checkpoint, with_settings(checkpoint, config))


def course(longer: TrialConfig) -> str:
    """Say whether a longer training is the one that was asked for so many epochs at once."""
    if longer.train.average_epochs == 0:
        return "lengthened: what follows is the training that was asked for so many epochs at once, bit by bit"
    return (
        "lengthened: the rate, which stood still while weights were averaged, falls again, and the average is taken "
        "anew; not quite the training that was asked for so many epochs at once"
    )
