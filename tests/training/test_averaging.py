"""The running mean of the weights."""

import torch
from torch import nn

from crystalframer.training.averaging import WeightAverage


class Small(nn.Module):
    """A layer, a frozen scalar and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.frozen = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.buffer: torch.Tensor
        self.register_buffer("buffer", torch.zeros(2))


def scramble(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.copy_(torch.randn(value.shape, generator=generator))


def test_average_equals_the_explicit_mean() -> None:
    model, generator = Small(), torch.Generator().manual_seed(0)
    average, seen = WeightAverage(model), []
    for _ in range(257):
        scramble(model, generator)
        average.add()
        seen.append({name: value.detach().double().clone() for name, value in model.named_parameters()})
    with average.applied():
        for name, value in model.named_parameters():
            mean = torch.stack([weights[name] for weights in seen]).mean(dim=0)
            assert torch.equal(value.detach(), mean.float()), name


def test_applied_gives_the_models_own_weights_back() -> None:
    model, generator = Small(), torch.Generator().manual_seed(0)
    average = WeightAverage(model)
    average.add()
    first = [value.clone() for value in model.parameters()]
    scramble(model, generator)
    own = [value.clone() for value in model.parameters()]
    storage = [value.data_ptr() for value in model.parameters()]
    with average.applied():
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), first, strict=True))
        assert [value.data_ptr() for value in model.parameters()] == storage
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), own, strict=True))


def test_frozen_parameters_and_buffers_are_kept() -> None:
    model = Small()
    average = WeightAverage(model)
    average.add()
    with torch.no_grad():
        model.frozen.fill_(5.0)
        model.buffer.fill_(6.0)
    with average.applied():
        assert model.frozen.item() == 5.0
        assert model.buffer.tolist() == [6.0, 6.0]


def test_state_continues_the_same_average() -> None:
    generator = torch.Generator().manual_seed(1)
    model = Small()
    average = WeightAverage(model)
    for _ in range(3):
        scramble(model, generator)
        average.add()
    continued = WeightAverage(model)
    continued.load_state_dict(average.state_dict())
    scramble(model, generator)
    average.add()
    continued.add()
    assert continued.count == average.count == 4
    ours, theirs = continued.state_dict()["sums"], average.state_dict()["sums"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
