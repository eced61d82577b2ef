"""AdamW and what it leaves alone."""

import torch
from torch import nn

from crystalframer.config import ModelConfig, TrainConfig
from crystalframer.nn.model import CrystalFramer
from crystalframer.training.optimizer import build_optimizer, is_bias, trainable_parameters

MODEL = ModelConfig(num_blocks=1, width=16, num_heads=2, ffn_width=16)


def test_biases_are_told_by_their_name() -> None:
    assert is_bias("blocks.0.linear1.bias")
    assert is_bias("blocks.0.in_proj_bias")
    assert not is_bias("bias_block.weight")


def test_decay_is_on_all_but_the_biases_and_frozen_scalars_are_left_out() -> None:
    model = CrystalFramer(MODEL)
    decayed, exempt = build_optimizer(model, TrainConfig(weight_decay=0.5)).param_groups
    names = {id(value): name for name, value in model.named_parameters()}
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.5, 0.0)
    assert all("bias" in names[id(value)] for value in exempt["params"])
    assert not any("bias" in names[id(value)] for value in decayed["params"])
    assert len(decayed["params"]) + len(exempt["params"]) == len(trainable_parameters(model))
    assert sum(not value.requires_grad for value in model.parameters()) > 0


def test_a_step_without_gradient_shrinks_weights_only() -> None:
    model = nn.Linear(3, 2)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = build_optimizer(model, TrainConfig(weight_decay=0.1, learning_rate=0.5))
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), weight * (1 - 0.5 * 0.1))
    assert torch.equal(model.bias.detach(), bias)


def test_a_step_is_that_of_the_textbook() -> None:
    model = nn.Linear(1, 1)
    config = TrainConfig(weight_decay=1e-2, learning_rate=1e-3)
    weight, gradients = model.weight.item(), [0.3, -0.2, 0.7]
    optimizer = build_optimizer(model, config)
    moment, square = 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        model.weight.grad = torch.full_like(model.weight, gradient)
        model.bias.grad = torch.zeros_like(model.bias)
        optimizer.step()
        moment = 0.9 * moment + 0.1 * gradient
        square = 0.98 * square + 0.02 * gradient**2
        update = (moment / (1 - 0.9**step)) / ((square / (1 - 0.98**step)) ** 0.5 + 1e-8)
        weight = weight * (1 - 1e-3 * 1e-2) - 1e-3 * update
    torch.testing.assert_close(model.weight.item(), weight, rtol=1e-6, atol=0)
