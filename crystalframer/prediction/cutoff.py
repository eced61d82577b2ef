"""What a model's cutoff leaves out, estimated from its σ and measured on crystals (see docs/cutoff.md)."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crystalframer.data.structures.reading import Reading
from crystalframer.geometry.crystal import Crystal
from crystalframer.nn.model import CrystalFramer
from crystalframer.prediction.predictor import Predictor
from crystalframer.training.trained_model import TrainedModel

WORTH_A_WARNING = 1e-3
"""Share of the attention beyond the cutoff from which on predictions suffer: about that share of their spread."""
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
    """Largest σ met, in Å."""


def neglected_share(sigma: float, cutoff: float) -> float:
    """Return the share of a Gaussian of width σ, both in Å, that lies beyond the cutoff in three dimensions.

    It estimates the attention weight that is left out in a crystal of even density.
    """
    if sigma <= 0:
        return 0.0
    x = cutoff / (math.sqrt(2) * sigma)
    return math.erfc(x) + 2 / math.sqrt(math.pi) * x * math.exp(-(x**2))


def cutoff_warning(predictor: Predictor, sigma_max: float) -> str:
    """Return a warning where the largest σ met is wide for the smallest cutoff, else an empty string."""
    cutoff = min(member.trial.model.cutoff for member in predictor.members)
    share = neglected_share(sigma_max, cutoff)
    if share <= WORTH_A_WARNING:
        return ""
    return (
        f"the model looks as far as σ = {sigma_max:.2f} Å, but its cutoff is {cutoff:g} Å: about {share:.1%} of such a "
        "head's attention is left out (docs/cutoff.md); predictions are those of this cutoff, as in training"
    )


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
    own, compared = Predictor([trained]).predict_named(named), Predictor([other]).predict_named(named)
    change = np.abs(own.values[:, 0] - compared.values[:, 0])
    return TruncationError(
        largest=float(change.max()),
        mean=float(change.mean()),
        cutoff=config.cutoff,
        wide=wide.cutoff,
        num_crystals=len(crystals),
        sigma_max=compared.sigma_max,
    )
