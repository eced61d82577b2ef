"""Training that starts from a trained model's weights instead of fresh ones."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.nn.model import CrystalFramer
from crystalframer.resolving import file_hash
from crystalframer.training.trained_model import load_model

_HEAD = ("head_in.", "head_out.")


def freeze_blocks(model: CrystalFramer, count: int) -> None:
    """Leave the first `count` blocks and, if there are any, the embedding out of the training."""
    if count:
        for module in (model.embedding, *model.levels[:count]):
            module.requires_grad_(False)


def start_weights(trial: TrialConfig, data: TaskData) -> tuple[dict[str, Tensor], str]:
    """Return the weights that ``train.start_from`` gives a model, and what they learned from, ``jarvis:bandgap_opt``.

    They are all weights of the file, or all but the head's for new targets.

    They are the averaged ones if averaging had begun, and include what was calibrated. The head is kept where names
    and units of the targets are the same; outputs are scaled by the new training set in either case.

    Raises:
        UserError: the file is missing, damaged, no model or no longer the one these settings were made for, or its
            architecture is another one (the message lists the settings that differ).
    """
    assert trial.train.start_from is not None, "there is a file to start from"
    path = Path(trial.train.start_from)
    if (got := file_hash(path)) != trial.train.start_hash:
        raise UserError(
            f"setting 'train.start_from': {str(path)!r} has changed since these settings were made: got SHA-256 {got}, "
            f"expected {trial.train.start_hash}; bring the file back, or start a new training from it"
        )
    trained = load_model(path)
    there = {**asdict(trained.trial.model), "num_targets": trial.model.num_targets}
    if differing := trial.differences({**trial.to_dict(), "model": there}):
        raise UserError(
            f"{str(path)!r} holds a model of another architecture: {differing}; "
            "train with its settings, or start from another file"
        )
    state: dict[str, Tensor] = trained.model.state_dict()
    known = [(target.name, target.unit) for target in trained.targets]
    if known != list(zip(data.tasks, data.units, strict=True)):
        state = {name: value for name, value in state.items() if not name.startswith(_HEAD)}
    return state, f"{trained.trial.data.dataset}:{trained.trial.data.task}"


@torch.no_grad()
def load_start(model: CrystalFramer, weights: dict[str, Tensor]) -> None:
    """Give a model the weights that `start_weights` returned; what they lack stays as it is."""
    model.load_state_dict({**model.state_dict(), **weights})
