"""Measure what a cutoff leaves out: predictions at several radii against 12 Å, on crystals of the embedded sample.

    python benchmarks/measure_cutoff.py [--crystals 24] [--cutoffs 5 6 7 8]

Prints two Markdown tables (docs/cutoff.md): freshly initialised models, and the same models with every σ pushed to
its upper bound, which no trained model exceeds. Float64 throughout.
"""

import argparse
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crystalframer.config import FRAMES, FrameName, ModelConfig
from crystalframer.data.batch import CrystalBatch, collate
from crystalframer.data.registry import load_dataset
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.nn.model import CrystalFramer
from crystalframer.resolving import build_trial

EXACT = 12.0
"""Å; beyond it every weight is below exp(−18) even where σ is at its bound."""
CUTOFFS = (5.0, 6.0, 7.0, 8.0)


@dataclass(frozen=True)
class CutoffError:
    """What one cutoff changes for one model."""

    largest: float
    """Largest change of a prediction against `EXACT`, standardised units"""
    mean: float
    """Mean change of a prediction"""
    spread: float
    """Standard deviation of the predictions over the crystals"""


def sample_crystals(count: int) -> list[Crystal]:
    """Return crystals of the embedded sample, evenly spaced over it, of at most 40 atoms."""
    dataset = load_dataset("sample")
    small = np.flatnonzero(dataset.num_atoms <= 40)
    return [dataset[int(row)] for row in small[np.linspace(0, len(small) - 1, count).astype(int)]]


def model_config(frame: FrameName, preset: str) -> ModelConfig:
    """Return a published setting at the exact cutoff."""
    return build_trial({"model.frame": frame, "model.preset": preset, "model.cutoff": EXACT}).model


def batch_of(crystals: list[Crystal], cutoff: float) -> CrystalBatch:
    """Prepare crystals in float64."""
    return collate([prepare_geometry(crystal, cutoff) for crystal in crystals], cutoff, dtype=torch.float64)


@torch.no_grad()
def measure(
    config: ModelConfig, batches: dict[float, CrystalBatch], widest_sigma: bool = False, seed: int = 0
) -> dict[float, CutoffError]:
    """Compare a freshly initialised, calibrated model's predictions at each cutoff with those at `EXACT`.

    Args:
        config: the model; its cutoff is replaced.
        batches: the same crystals by cutoff, `EXACT` among them.
        widest_sigma: push every σ to its upper bound.
        seed: of the initial weights.
    """
    model = CrystalFramer(
        dataclasses.replace(config, cutoff=EXACT), kernel="reference", generator=torch.Generator().manual_seed(seed)
    ).double()
    model.calibrate(batches[EXACT])
    if widest_sigma:
        for block in model.levels:
            block.attention.alpha_mean.add_(1e3 * block.attention.alpha_std)
    predictions: dict[float, Tensor] = {}
    for cutoff, batch in batches.items():
        at_cutoff = CrystalFramer(dataclasses.replace(config, cutoff=cutoff), kernel="reference").double()
        at_cutoff.load_state_dict(model.state_dict())
        predictions[cutoff] = at_cutoff(batch)[:, 0]
    spread = float(predictions[EXACT].std())
    changes = {cutoff: (value - predictions[EXACT]).abs() for cutoff, value in predictions.items() if cutoff != EXACT}
    return {cutoff: CutoffError(float(x.max()), float(x.mean()), spread) for cutoff, x in changes.items()}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=24, help="number of crystals (default: 24)")
    parser.add_argument("--cutoffs", type=float, nargs="+", default=list(CUTOFFS), help="radii in Å")
    options = parser.parse_args()
    crystals = sample_crystals(options.crystals)
    batches = {cutoff: batch_of(crystals, cutoff) for cutoff in (*options.cutoffs, EXACT)}
    for cutoff, batch in batches.items():
        print(f"{cutoff:g} Å: {batch.num_edges / batch.num_atoms:.0f} neighbours per atom")
    for widest_sigma in (False, True):
        print(f"\n{'every σ at its bound' if widest_sigma else 'freshly initialised'}, largest (mean) change\n")
        print("| frame | preset | spread | " + " | ".join(f"{cutoff:g} Å" for cutoff in options.cutoffs) + " |")
        print("|" + "---|" * (3 + len(options.cutoffs)))
        for frame in FRAMES:
            for preset in ("default", "lightweight"):
                errors = measure(model_config(frame, preset), batches, widest_sigma)
                cells = [f"{error.largest:.1e} ({error.mean:.0e})" for error in errors.values()]
                spread = next(iter(errors.values())).spread
                print(f"| {frame} | {preset} | {spread:.2f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
