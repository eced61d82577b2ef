"""AdamW as published: no decay on biases, nothing on frozen parameters."""

import torch
from torch import nn

from crystalframer.config import TrainConfig


class TrainingDivergedError(RuntimeError):
    """The loss or the gradient is no longer a finite number; the message says where and what to try."""


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
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta_1, config.beta_2), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
