"""How far our errors are from the published ones, and after how many epochs the two would meet.

    python analysis/tables/published_gap.py --results results/NAME

writes analysis/output/<sweep>/published_gap.{md,tex,html,csv} for data sets that have published errors beside them.
Where ours is the larger one, a power law through the validation errors is continued: it says how much of the
difference is the length of training, and knows nothing of overfitting.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import Comparison, Row, compare
from analysis.documents import EMPTY, Document, Table
from analysis.figures.learning_curves import over_seeds
from analysis.items import Context, Item, Product
from analysis.material_errors import interval_ends
from analysis.published_errors import published_beside, published_mae
from analysis.results import MissingError
from crystalframer.published import PUBLISHED

NAME = "published_gap"
FEWEST = 4
"""Epochs that a curve is continued from, at least."""


@dataclass(frozen=True)
class Gap:
    """A row's error beside the published one of the same model; errors are in the comparison's unit."""

    frames: str
    test_mae: float
    low: float | None
    """Ends of its 95 % interval over test crystals; None without predictions."""
    high: float | None
    published_mae: float
    epochs: int
    published_epochs: int | None
    val_mae_at_half: float
    """Validation MAE after half of the epochs, seeds averaged."""
    val_mae: float
    """After the last one."""
    meets_after: float | None
    """Epochs after which the two errors would meet; None where the curve does not lead there."""

    @property
    def difference(self) -> float:
        """Ours − published."""
        return self.test_mae - self.published_mae

    def cells(self) -> list[str]:
        """Return the texts of the table's line."""
        if self.difference <= 0:
            meets = "met"
        else:
            meets = "not in sight" if self.meets_after is None else f"about {self.meets_after:,.0f}"
        return [
            self.frames,
            f"{self.test_mae:.4f}",
            EMPTY if self.low is None else f"{self.low:.4f} to {self.high:.4f}",
            f"{self.published_mae:.4f}",
            f"{self.difference:+.4f}".replace("-", "−"),
            f"{self.epochs:,}" + (f" of {self.published_epochs:,}" if self.published_epochs else ""),
            f"{self.val_mae_at_half:.4f} → {self.val_mae:.4f}",
            meets,
        ]


def gaps(comparison: Comparison) -> list[Gap]:
    """Return one for each finished row that has a published error."""
    beside = published_beside(comparison)
    if beside is None:
        return []
    epochs = PUBLISHED[beside[0].dataset].training.get("epochs")
    found = ((row, published_mae(comparison, row)) for row in comparison.finished)
    return [_gap(row, mae, epochs) for row, mae in found if mae is not None]


def _gap(row: Row, published_mae: float, published_epochs: int | None) -> Gap:
    curve = over_seeds(row, "val_mae")["mean"].to_numpy()
    averaged = over_seeds(row, "averaged")["max"].to_numpy() > 0
    return Gap(
        frames=row.label,
        test_mae=row.test_mae.mean,
        **interval_ends(row),
        published_mae=published_mae,
        epochs=len(curve),
        published_epochs=published_epochs,
        val_mae_at_half=float(curve[(len(curve) - 1) // 2]),
        val_mae=float(curve[-1]),
        meets_after=meets_after(curve, averaged, row.test_mae.mean, published_mae),
    )


def meets_after(
    curve: NDArray[np.float64], averaged: NDArray[np.bool_], test_mae: float, wanted: float
) -> float | None:
    """Return after how many epochs a training of the same kind would have a test error.

    A power law is fitted to the later half of the validation errors of weights that are not averaged. A longer training
    averages the same share of its epochs, and its test error is the same multiple of the law where averaging begins.

    Args:
        curve: (E,) validation error after each epoch.
        averaged: (E,) whether the epoch's weights were averaged.
        test_mae: test error at the end.
        wanted: the test error asked for.

    Returns:
        Epochs, None where too few are there to continue or the errors do not fall.
    """
    single = np.flatnonzero(~averaged) + 1
    later = single[len(single) // 2 :]
    if len(later) < FEWEST:
        return None
    slope, _ = np.polyfit(np.log(later), np.log(curve[later - 1]), 1)
    return None if slope >= 0 else float(len(curve) * (wanted / test_mae) ** (1 / slope))


def build(context: Context) -> Document:
    """Return one table for each data set and task that has published errors."""
    tables, records = [], []
    for comparison in compare(context.results):
        if found := gaps(comparison):
            tables.append(_table(comparison, found))
            records += [comparison.labels | asdict(gap) | {"difference": gap.difference} for gap in found]
    return Document(f"{context.sweep}: beside published errors", tables, records=pd.DataFrame(records))


def _table(comparison: Comparison, found: list[Gap]) -> Table:
    unit = comparison.unit
    headings = [
        "frames",
        f"test MAE ({unit})",
        "95 % interval",
        f"published MAE ({unit})",
        "difference",
        "epochs",
        f"validation MAE ({unit}), half → end",
        "meets it after epochs",
    ]
    above = [gap for gap in found if gap.difference > 0]
    notes = [
        f"{len(above)} of {len(found)} errors {'is' if len(above) == 1 else 'are'} above the published one. "
        "Interval: test crystals drawn anew; the published errors are of single trainings, without one.",
    ]
    if above:
        notes.append(
            "Last column: a power law through the later half of the validation errors before averaging, continued. "
            "It says what more epochs alone might do, and knows nothing of overfitting."
        )
    return Table(comparison.title, headings, [gap.cells() for gap in found], notes)


def produce(context: Context) -> Product:
    """Make the table of differences from published errors."""
    document = build(context)
    if not document.tables:
        reason = f"{context.sweep} has no row with a published error beside it"
        raise MissingError(reason, "crystalframer sweep ablation_frames")
    return context.table(document, NAME)


ITEM = Item(
    "published_gap",
    "Beside published errors",
    "How far each error is from the published one of the same model, and after how many epochs they would meet.",
    "how sure",
    produce,
    sweep="ablation_frames",
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
