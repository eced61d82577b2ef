"""AdamW as published: no decay on biases, nothing on frozen parameters."""

import math
from typing import Any

import torch
from torch import nn

from crystalframer.config import TrainConfig
from crystalframer.training.schedule import Schedule


class TrainingDivergedError(RuntimeError):
    """The loss or the gradient is no longer a finite number; the message says where and what to try."""

    @classmethod
    def at(cls, place: str) -> "TrainingDivergedError":
        """Say where it happened and how."""
        return cls(
            f"training diverged {place}; try a smaller train.learning_rate or train.clip_norm, and look for outliers "
            "among the targets"
        )


def require_finite_step(loss: float, norm: float, epoch: int, step: int, schedule: Schedule) -> None:
    """Raise a `TrainingDivergedError` unless loss and gradient norm of a step of an epoch, from 0, are finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingDivergedError.at(
            f"in epoch {epoch + 1}, step {step + 1}: loss {loss}, gradient norm {norm} at learning rate "
            f"{schedule.at(step):.3g}"
        )


def is_bias(name: str) -> bool:
    """Return whether a parameter of this dotted name is a bias: its last part ends in ``bias``."""
    return name.rpartition(".")[2].endswith("bias")


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training changes, in the model's order."""
    return [value for value in model.parameters() if value.requires_grad]


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, with weight decay on all but the biases."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    groups = [
        {"params": [value for name, value in named if not is_bias(name)], "weight_decay": config.weight_decay},
        {"params": [value for name, value in named if is_bias(name)], "weight_decay": 0.0},
    ]
    on_gpu = named[0][1].is_cuda
    rate = torch.tensor(config.learning_rate, device=named[0][1].device) if on_gpu else config.learning_rate
    return torch.optim.AdamW(groups, lr=rate, betas=(config.beta_1, config.beta_2), fused=True, capturable=on_gpu)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from the next step on; where a recorded step reads it from the device, write it there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state as any device can resume from it."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from an `optimizer_state`, in the way of this optimiser's device."""
    own = [{name: group[name] for name in ("lr", "capturable")} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, kept, saved in zip(optimizer.param_groups, own, state["param_groups"], strict=True):
        group.update(kept)
        if not isinstance(group["lr"], torch.Tensor):
            group["lr"] = saved["lr"]
