"""The error on each test material, averaged over a row's seeds: what intervals, tests and error maps are made of."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import Comparison, Row
from crystalframer.errors import UserError
from crystalframer.statistics import Interval, mean_interval


@dataclass(frozen=True, eq=False)
class MaterialErrors:
    """What a row's seeds made of each test material, sorted by id."""

    ids: tuple[str, ...]
    target: NDArray[np.float64]
    """(n,) in the target's unit."""
    predictions: NDArray[np.float64]
    """(n, seeds)."""

    @property
    def absolute(self) -> NDArray[np.float64]:
        """(n,) absolute error, averaged over seeds; its mean is the row's test MAE."""
        return np.abs(self.predictions - self.target[:, None]).mean(axis=1)

    @property
    def by_seed(self) -> list[float]:
        """Test MAE of each seed."""
        return [float(mae) for mae in np.abs(self.predictions - self.target[:, None]).mean(axis=0)]

    @property
    def ensemble(self) -> "MaterialErrors":
        """The errors of the seeds' mean prediction."""
        return MaterialErrors(self.ids, self.target, self.predictions.mean(axis=1, keepdims=True))

    def among(self, ids: Collection[str]) -> "MaterialErrors":
        """Return the errors of some materials."""
        chosen = np.array([id in ids for id in self.ids], dtype=bool)
        kept = tuple(id for id in self.ids if id in ids)
        return MaterialErrors(kept, self.target[chosen], self.predictions[chosen])

    @cached_property
    def interval(self) -> Interval:
        """The test MAE with its interval over materials."""
        return mean_interval(self.absolute)


@lru_cache(maxsize=256)
def material_errors(row: Row) -> MaterialErrors | None:
    """Return the errors of a row's materials; None where nothing has finished or a trial's predictions are gone.

    Raises:
        UserError: the seeds were tested on different materials, or a file is not its trial's.
    """
    tables = [trial.predictions() for trial in row.trials]
    found = [table for table in tables if table is not None]
    if not found or len(found) < len(tables):
        return None
    first = found[0]
    for trial, table in zip(row.trials, found, strict=True):
        if not table.index.equals(first.index) or not np.array_equal(table["target"], first["target"]):
            raise UserError(
                f"{trial.run_key} was tested on other materials than {row.trials[0].run_key}; "
                "run the sweep again, which repeats the ones whose data have changed"
            )
    predictions = pd.concat([table["prediction"] for table in found], axis="columns").to_numpy(dtype=float)
    return MaterialErrors(tuple(first.index), first["target"].to_numpy(dtype=float), predictions)


def rows_with_errors(comparison: Comparison) -> dict[Row, MaterialErrors]:
    """Return the errors of the rows that have test predictions."""
    return {row: errors for row in comparison.rows if (errors := material_errors(row)) is not None}


def interval_ends(row: Row) -> dict[str, float | None]:
    """Return `low` and `high` of a row's test MAE over materials, as tables record them; None without predictions."""
    errors = material_errors(row)
    low, high = (None, None) if errors is None else (errors.interval.low, errors.interval.high)
    return {"low": low, "high": high}


def on_same_materials(
    first: MaterialErrors, second: MaterialErrors
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return both absolute errors on the materials that both saw, None where there are none."""
    common = pd.Index(first.ids).intersection(pd.Index(second.ids)).sort_values()
    if common.empty:
        return None
    one, other = (
        pd.Series(errors.absolute, index=errors.ids).loc[common].to_numpy(dtype=float) for errors in (first, second)
    )
    return np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
