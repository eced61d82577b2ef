"""Test error against the number of training crystals: what frames are worth where data are few, and where many.

    python analysis/figures/error_against_crystals.py --results results/NAME

reads finished trials and writes analysis/output/<sweep>/error_against_crystals_<dataset>_<task>.{pdf,png}. A dot is a
trial, a line joins the means over seeds; grey squares are boosted trees on the composition, fitted to the same training
crystals, where they are recorded (`crystalframer export … --trees`).
"""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from analysis.comparison import FRAME_LABELS, Comparison, Row, encoding_preset
from analysis.figures.learning_curves import plain_log_ticks
from analysis.items import Context, Item, Product
from analysis.material_errors import material_errors
from analysis.peers import TREES, Peer, recorded_peers, trees_name
from analysis.results import FinishedTrial
from crystalframer.config import FrameName
from crystalframer.escaping import for_figures
from crystalframer.pictures.palette import COLOURS, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_STYLES = {"default": "-", "lightweight": "--"}
"""By the preset of the encoding, where a frame has rows of both."""


def produce(context: Context) -> Product:
    """Draw every data set and task of the sweep whose trials learned from different numbers of crystals."""
    found = [one for one in context.comparisons if has_sizes(one)]
    if not found:
        raise context.no_runs("no trials that differ by data.train_size")
    peers = recorded_peers(context.results)
    return context.draw_each(lambda comparison: draw(comparison, peers), "error_against_crystals", of=found, most=None)


def has_sizes(comparison: Comparison) -> bool:
    """Whether trials learned from different numbers of crystals."""
    return len({learned_from(trial) for trial in comparison.trials}) > 1


def learned_from(trial: FinishedTrial) -> int | None:
    """Return the number of training crystals, None where a trial did not record it."""
    return int(trial.tags["num_train"]) if "num_train" in trial.tags else trial.config.data.train_size


def lines_of(comparison: Comparison) -> dict[tuple[FrameName, str | None], dict[int, list[float]]]:
    """Return test errors by frame and preset of the encoding, then by the number of training crystals."""
    lines: dict[tuple[FrameName, str | None], dict[int, list[float]]] = {}
    for row in comparison.finished:
        for trial in row.trials:
            if (crystals := learned_from(trial)) is not None:
                line = lines.setdefault((row.frame, encoding_preset(row.model)), {})
                line.setdefault(crystals, []).append(trial.test_mae)
    return {key: dict(sorted(line.items())) for key, line in lines.items()}


def draw(comparison: Comparison, peers: Sequence[Peer] = ()) -> "Figure":
    """Return the figure of one task, with boosted trees on the same crystals if there are any."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log")
    lines = lines_of(comparison)
    several = len({frame for frame, _ in lines}) < len(lines)
    for (frame, preset), line in lines.items():
        name = FRAME_LABELS[frame] + (f", {preset}" if several and preset else "")
        style = LINE_STYLES.get(preset or "", ":") if several else "-"
        axes.plot(list(line), [fmean(errors) for errors in line.values()], style, color=COLOURS[frame], label=name)
        dots = [(crystals, mae) for crystals, errors in line.items() for mae in errors]
        axes.plot(*zip(*dots, strict=True), "o", color=COLOURS[frame], markersize=3)
    if trees := _trees(comparison.finished, peers):
        axes.plot(list(trees), list(trees.values()), "s--", color=QUIET, markersize=3, label=TREES)
    axes.set_xlabel("training crystals, log axis")
    axes.set_ylabel(f"test MAE ({for_figures(comparison.unit)}), log axis")
    axes.set_title(f"{comparison.heading}:\ndots trials, lines means over seeds", loc="left")
    axes.legend(frameon=False, fontsize=7)
    axes.set_xticks(sorted({crystals for line in lines.values() for crystals in line}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    plain_log_ticks(axes.yaxis, (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0))
    return figure


def _trees(rows: Sequence[Row], peers: Sequence[Peer]) -> dict[int, float]:
    """Return the test error of trees by the number of crystals that they were fitted to."""
    found = {}
    by_name = {peer.name: peer for peer in peers}
    for row in rows:
        crystals, errors = learned_from(row.trials[0]), material_errors(row)
        if crystals is not None and errors is not None and (peer := by_name.get(trees_name(crystals))) is not None:
            found[crystals] = float(peer.errors(errors).absolute.mean())
    return dict(sorted(found.items()))


ITEM = Item(
    "error_against_crystals",
    "What training crystals buy",
    "Test error against the number of training crystals, with boosted trees on the composition beside.",
    "why",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
