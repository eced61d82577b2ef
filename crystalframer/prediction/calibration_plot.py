"""A picture of intervals: the share they hold by difficulty and by cell size, and how wide they are for each error."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crystalframer.escaping import for_figures
from crystalframer.pictures.palette import COLOURS, QUIET
from crystalframer.prediction.calibration import COVERAGE
from crystalframer.prediction.coverage import Coverage
from crystalframer.prediction.evaluation import TargetEvaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def calibration_plot(evaluation: TargetEvaluation, coverages: Sequence[Coverage]) -> "Figure":
    """Return the shares that intervals hold beside the promised one, and errors beside the intervals' half widths."""
    from matplotlib.figure import Figure

    assert evaluation.half_widths is not None, "the model has intervals"
    figure = Figure(figsize=(7.0, 2.6), layout="constrained")
    difficulty, sizes, errors = figure.subplots(1, 3)
    _shares(difficulty, [one for one in coverages if one.kind == "difficulty"])
    difficulty.set(xlabel="tenth of the crystals, by difficulty", ylabel="share of true values held")
    _shares(sizes, [one for one in coverages if one.kind == "atoms"])
    sizes.set(xlabel="atoms in the cell")
    sizes.tick_params(axis="x", rotation=30)
    missed = np.abs(evaluation.predictions - evaluation.targets)
    held = missed <= evaluation.half_widths
    for inside, colour in ((True, COLOURS["lattice"]), (False, COLOURS["max"])):
        chosen = held == inside
        label = f"{'held' if inside else 'not held'}, {chosen.mean():.1%}"
        errors.scatter(evaluation.half_widths[chosen], missed[chosen], s=3, color=colour, linewidths=0, label=label)
    reach = float(np.quantile(evaluation.half_widths, 0.995))
    errors.plot([0, reach], [0, reach], color=QUIET, linewidth=0.8)
    unit = for_figures(evaluation.unit)
    errors.set(xlim=(0, reach), ylim=(0, reach), xlabel=f"half width ({unit})", ylabel=f"absolute error ({unit})")
    errors.legend(frameon=False, fontsize=7, markerscale=3)
    return figure


def _shares(axes: "Axes", groups: Sequence[Coverage]) -> None:
    """Draw the share of each group with its interval, beside the promised one."""
    places = np.arange(len(groups))
    shares = np.array([one.share for one in groups])
    ends = np.abs(np.array([[one.low, one.high] for one in groups]).T - shares)
    axes.axhline(COVERAGE, color=QUIET, linewidth=0.8, linestyle="--")
    axes.errorbar(places, shares, yerr=ends, fmt="o", markersize=3, color=COLOURS["lattice"], linewidth=0.9)
    axes.set_xticks(places, [one.group for one in groups])
    axes.set_ylim(min(0.6, COVERAGE - 0.2, float((shares - ends[0]).min())), 1.01)
