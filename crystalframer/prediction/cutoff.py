"""What a model's cutoff leaves out, estimated from its σ and measured on crystals (see docs/cutoff.md)."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from crystalframer.data.dataset import TaskData
from crystalframer.data.structures.reading import Reading
from crystalframer.geometry.crystal import Crystal
from crystalframer.nn.attention import PeriodicAttention
from crystalframer.nn.model import CrystalFramer
from crystalframer.prediction.predictor import Predictor
from crystalframer.training.trained_model import TrainedModel

WORTH_SAYING = 1e-3
"""Share of the attention beyond the cutoff from which on predictions suffer: about that share of their spread."""
MEASURED_CRYSTALS = 8
"""Crystals on which the cutoff's error is measured."""
MEASURED_ATOMS = 64
"""Larger crystals are not taken for that."""
WIDER = 4.0
"""Å by which the cutoff is widened to measure what it leaves out."""


@dataclass(frozen=True)
class TruncationError:
    """Change of predictions when the cutoff is widened, in the unit of the first target."""

    largest: float
    mean: float
    cutoff: float
    """The model's own, in Å."""
    wide: float
    """The one compared with, in Å."""
    num_crystals: int
    sigma_max: float
    """Largest σ met with the wider cutoff, in Å."""

    def __str__(self) -> str:
        """Say how much of the widest head's attention is left out, and what to do; nothing where it is little."""
        share = neglected_share(self.sigma_max, self.cutoff)
        if share <= WORTH_SAYING:
            return ""
        return (
            f"about {share:.1%} of the widest head's attention (σ = {self.sigma_max:.2f} Å) lies beyond the cutoff of "
            f"{self.cutoff:g} Å; the test error includes that, and a training with a larger model.cutoff sees more at "
            "more cost (`crystalframer files cutoff.md`)"
        )


def neglected_share(sigma: float, cutoff: float) -> float:
    """Return the share of a Gaussian of width σ, both in Å, that lies beyond the cutoff in three dimensions.

    It estimates the attention weight that is left out in a crystal of even density.
    """
    if sigma <= 0:
        return 0.0
    x = cutoff / (math.sqrt(2) * sigma)
    return math.erfc(x) + 2 / math.sqrt(math.pi) * x * math.exp(-(x**2))


def truncation_on_test(trained: TrainedModel, data: TaskData) -> TruncationError | None:
    """Measure that on a few small crystals of the test split; None where there are none."""
    rows = data.rows["test"]
    small = rows[data.dataset.num_atoms[rows] <= MEASURED_ATOMS][:MEASURED_CRYSTALS]
    return truncation_error(trained, [data.dataset[int(row)] for row in small]) if len(small) else None


def truncation_error(trained: TrainedModel, crystals: Sequence[Crystal]) -> TruncationError:
    """Measure how much predictions change when the same weights see `WIDER` Å more.

    Args:
        trained: the model.
        crystals: at least one, of elements it knows.
    """
    config = trained.trial.model
    wide = dataclasses.replace(config, cutoff=config.cutoff + WIDER)
    model = CrystalFramer(wide, kernel=trained.model.kernel)
    model.load_state_dict(trained.model.state_dict())
    model = model.to(trained.model.embedding.weight.device).eval()
    other = dataclasses.replace(trained, model=model, trial=dataclasses.replace(trained.trial, model=wide))
    named = [Reading(crystal.id, "", crystal) for crystal in crystals]
    own = Predictor([trained]).predict_named(named)
    with _sigmas(model) as sigmas:
        compared = Predictor([other]).predict_named(named)
    change = np.abs(own.values[:, 0] - compared.values[:, 0])
    return TruncationError(
        largest=float(change.max()),
        mean=float(change.mean()),
        cutoff=config.cutoff,
        wide=wide.cutoff,
        num_crystals=len(crystals),
        sigma_max=max(sigmas),
    )


@contextmanager
def _sigmas(model: CrystalFramer) -> Iterator[list[float]]:
    """Note the largest σ in Å of each pass through an attention of the model within the context."""
    found: list[float] = []

    def measure(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(attention, PeriodicAttention)
        found.append(float(attention.sigma(inputs[0]).max()))

    handles = [block.attention.register_forward_pre_hook(measure) for block in model.levels]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
