"""A trial that goes on from another one's checkpoint under changed settings, as population-based training does."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crystalframer.config import TrainConfig, TrialConfig
from crystalframer.errors import UserError

if TYPE_CHECKING:
    from crystalframer.runs.run_directory import Attempt, RunDirectory


def inherit(attempt: "Attempt", config: TrialConfig, parent: "RunDirectory") -> None:
    """Copy a parent's checkpoint and metrics into an attempt's directory, unless it has a checkpoint already.

    The weights, the averages, the optimiser's moments, the random generators and the history stay the parent's; the
    settings are the trial's own from here on.

    Raises:
        UserError: the parent has no checkpoint, or differs in what cannot change while a model trains.
    """
    from crystalframer.training.checkpoint import read_checkpoint, write_checkpoint

    directory = attempt.directory
    if directory.checkpoint.exists():
        return
    checkpoint = read_checkpoint(parent.checkpoint)
    if checkpoint.trial.model != config.model or checkpoint.trial.data != config.data:
        raise UserError(f"{directory.path} cannot go on from {parent.path}: another model or other data")
    attempt.check_current()
    attempt.take_over(record for record in parent.records() if record.step <= len(checkpoint.history))
    optimizer = with_settings(checkpoint.optimizer, config.train)
    write_checkpoint(directory.checkpoint, replace(checkpoint, trial=config, optimizer=optimizer))


def with_settings(optimizer: dict[str, Any], settings: TrainConfig) -> dict[str, Any]:
    """Return the state of AdamW with other settings; the learning rate is set before every step anyway."""
    decayed, biases = optimizer["param_groups"]  # as training/optimizer.py makes them
    betas = (settings.beta_1, settings.beta_2)
    groups = [{**decayed, "betas": betas, "weight_decay": settings.weight_decay}, {**biases, "betas": betas}]
    return {**optimizer, "param_groups": groups}
