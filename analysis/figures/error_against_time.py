"""Test error against core minutes: what training time buys, with other methods' errors as lines.

    python analysis/figures/error_against_time.py --results results/NAME

reads the recorded epochs and writes analysis/output/<sweep>/error_against_time_<dataset>_<task>.{pdf,png}. A line is
the validation error after each epoch, seeds averaged, a dot the test error at the end, with the range over seeds, an
open diamond that of the seeds' mean prediction, at the time of all of them. Other methods' errors are those on the same
test crystals where their predictions are recorded, else the published ones. Every epoch is the same work and counts as
the median one of the fastest seed, so that minutes in which the machine was busy with something else do not.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.comparison import Comparison, Row
from analysis.figures.learning_curves import LineStyle, line_style, over_seeds, plain_log_ticks, spread_out
from analysis.items import Context, Item, Product
from analysis.material_errors import material_errors, rows_with_errors
from analysis.peers import Peer, recorded_peers
from analysis.published_errors import published_beside
from analysis.results import FinishedTrial
from crystalframer.escaping import for_figures
from crystalframer.pictures.palette import COLOURS, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHERS = ("ALIGNN", "PotNet", "coGN", "max frames", "GSMNet")
"""Published methods that are drawn as lines."""
LONG_LABEL = 45
"""Characters of a row's name beside which another one has no room."""


def produce(context: Context) -> Product:
    """Draw every data set and task of the sweep that has trials with recorded threads."""
    found = [one for one in context.comparisons if any(cores_of(trial) is not None for trial in one.trials)]
    if not found:
        raise context.no_runs("no trial that recorded its threads")
    peers = recorded_peers(context.results)
    return context.draw_each(lambda comparison: draw(comparison, peers), "error_against_time", of=found)


def cores_of(trial: FinishedTrial) -> int | None:
    """Return the threads that a trial trained with, None where it did not record them."""
    return int(trial.tags["threads"]) if "threads" in trial.tags else None


def draw(comparison: Comparison, peers: Sequence[Peer] = ()) -> "Figure":
    """Return the figure of one task, beside peers' errors on its test crystals if there are any."""
    from matplotlib.figure import Figure

    columns = 1 if max((len(row.label) for row in comparison.finished), default=0) > LONG_LABEL else 2
    lines = -(-len(comparison.finished) // columns)
    figure = Figure(figsize=(5.2, 3.2 + 0.14 * lines), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("core minutes of training, log axis")
    axes.set_ylabel(f"MAE ({for_figures(comparison.unit)}), log axis")
    axes.set_title(f"{comparison.heading}:\nlines validation, dots test, diamonds ensembles", loc="left")
    for row in comparison.finished:
        _draw_row(axes, row, line_style(row, comparison.finished))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=6.5)
    _draw_others(axes, _measured(comparison, peers) or _published(comparison))
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_ticks(axis, (1.0, 2.0, 3.0, 5.0))
    return figure


def _draw_row(axes: "Axes", row: Row, style: LineStyle) -> None:
    """Draw the curve of a row, seeds averaged, its test errors from best to worst seed, and that of their ensemble."""
    timed = [(trial, cores) for trial in row.trials if (cores := cores_of(trial)) is not None]
    if not timed:
        return
    colour, curve = COLOURS[row.frame], over_seeds(row, "val_mae")["mean"].to_numpy()
    per_epoch = min(trial.history["seconds"].median() * cores for trial, cores in timed) / 60
    minutes, errors = per_epoch * np.arange(1, len(curve) + 1), [trial.test_mae for trial, _ in timed]
    axes.plot(minutes, curve, color=colour, linestyle=style, alpha=0.7, lw=0.9, label=row.label)
    axes.plot([minutes[-1]] * 2, [min(errors), max(errors)], color=colour, lw=0.9)
    axes.plot(minutes[-1], float(np.mean(errors)), "o", color=colour, markersize=4)
    found = material_errors(row)
    if found is not None and len(row.trials) > 1:
        together = len(row.trials) * minutes[-1]
        axes.plot(together, float(found.ensemble.absolute.mean()), "D", color=colour, markersize=4, fillstyle="none")


def _measured(comparison: Comparison, peers: Sequence[Peer]) -> dict[str, float]:
    """Return the errors of peers on the same test crystals, by what the figure calls them."""
    ours = next(iter(rows_with_errors(comparison).values()), None)
    return {} if ours is None else {peer.name: float(peer.errors(ours).absolute.mean()) for peer in peers}


def _published(comparison: Comparison) -> dict[str, float]:
    """Return published errors, by what the figure calls them."""
    beside = published_beside(comparison)
    if beside is None:
        return {}
    published, task = beside
    found = [method for method in published.methods if method.name in OTHERS]
    return {f"{method.name} (published)": mae for method in found if (mae := method.mae[task])}


def _draw_others(axes: "Axes", found: Mapping[str, float]) -> None:
    """Draw errors of other methods as lines with their names, moved apart where they are close."""
    for mae in found.values():
        axes.axhline(mae, color=QUIET, linewidth=0.7, linestyle=":")
    low, high = np.log(axes.get_ylim())
    heights = [(np.log(mae) - low) / (high - low) for mae in found.values()]
    for name, mae, place in zip(found, found.values(), spread_out(heights, gap=0.05, low=0.0), strict=True):
        text = f"{name} {mae:.3g}"
        axes.text(1.01, place, text, transform=axes.transAxes, color=QUIET, va="center", fontsize=6.5)


ITEM = Item(
    "error_against_time",
    "What training time buys",
    "Validation error against core minutes, test error at the end and of the ensemble; other methods' errors as lines.",
    "how sure",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
