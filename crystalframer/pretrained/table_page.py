"""One page of what came of a folder and a table: a self-contained HTML file for whoever made the measurements."""

import base64
import io
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalframer import __version__
from crystalframer.config import TrialConfig
from crystalframer.data.dataset import SPLITS, TaskData
from crystalframer.escaping import for_figures, for_html
from crystalframer.pictures.error_drawing import periodic_table
from crystalframer.pictures.palette import PAGE_STYLE, STYLE
from crystalframer.prediction.calibration import COVERAGE
from crystalframer.prediction.calibration_plot import calibration_plot
from crystalframer.prediction.coverage import coverage_of
from crystalframer.prediction.evaluation import TargetEvaluation, element_errors
from crystalframer.prediction.intervals import FEWEST
from crystalframer.prediction.predictions import Predictions
from crystalframer.prediction.report import parity_plot
from crystalframer.pretrained.baselines import Candidate, best_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 2_000
"""Rows of one table of the page; files hold the rest."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What the page tells."""

    own: str
    """Folder and table, by their names."""
    model: Path
    data: TaskData
    evaluation: TargetEvaluation
    """On the test crystals."""
    candidates: Sequence[Candidate]
    """The model, the last one, beside shallow ones."""
    predicted: Predictions | None
    """The rows without a value, if there are any."""
    left_out: Sequence[tuple[str, str]]
    """Id and reason of what was neither learned from nor predicted."""
    unsplit: int
    """Crystals that have a value and were given no split."""
    notes: Sequence[str]
    settings: TrialConfig


def page(findings: Findings) -> str:
    """Return the page's HTML; it refers to no other file."""
    title = f"{findings.data.task.replace('_', ' ')}: {findings.own}"
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{for_html(title)}</title>",
        f"<style>\n{PAGE_STYLE.read_text(encoding='utf-8')}</style></head><body><main>",
        f"<h1>{for_html(title)}</h1>",
        *_answer(findings),
        *_errors(findings),
        *_intervals(findings),
        *_beside(findings),
        *_predicted(findings),
        *_left_out(findings),
        *_use(findings),
        f'<p class="quiet">crystalframer {__version__}</p>',
    ]
    return "\n".join([*lines, "</main></body></html>"]) + "\n"


def _answer(findings: Findings) -> Iterator[str]:
    """Yield the error on unseen crystals in words, and what it is worth."""
    one, mean, best = findings.evaluation, findings.candidates[0], best_of(findings.candidates)
    yield (
        f'<p class="answer">On {len(one.ids):,} crystals that it did not learn from, the model is wrong by '
        f"<strong>{one.mae.value:.3g} {for_html(one.unit)}</strong> on average (95 % interval {one.mae.low:.3g} to "
        f"{one.mae.high:.3g}); whoever guesses the mean is wrong by {mean.test_mae.value:.3g}.</p>"
    )
    if best is not findings.candidates[-1]:
        yield (
            f'<p class="failed">A shallower model does better: <strong>{for_html(best.name)}</strong> has the smallest '
            f"error on the validation crystals, {best.val_mae:.3g} against {findings.candidates[-1].val_mae:.3g} "
            f"{for_html(one.unit)}.</p>"
        )
    sizes = ", ".join(
        f"{len(findings.data.rows[split]):,} {words}"
        for split, words in zip(SPLITS, ("to learn from", "to choose by", "to test with"), strict=True)
    )
    yield f"<p>{sizes}.</p>"
    if one.unit == "unspecified":
        yield "<p>No unit is known: write it into the heading of the column, such as <code>hardness (GPa)</code>.</p>"


def _errors(findings: Findings) -> Iterator[str]:
    """Yield predicted against true values, and the errors by element."""
    one, dataset = findings.evaluation, findings.data.dataset
    yield "<h2>Errors on the test crystals</h2>"
    yield _picture(partial(parity_plot, one), "Predicted against true values")
    elements = element_errors(dataset, one)
    title = for_figures(f"{one.name.replace('_', ' ')}, test crystals")
    yield _picture(partial(periodic_table, elements, title, for_figures(one.unit)), "Mean absolute error by element")
    worst = np.argsort(-np.abs(one.predictions - one.targets))[:10]
    yield "<h3>The largest errors</h3>"
    yield from _table(
        ("crystal", f"true ({one.unit})", f"predicted ({one.unit})"),
        [(one.ids[k], f"{one.targets[k]:.4g}", f"{one.predictions[k]:.4g}") for k in worst.tolist()],
    )


def _intervals(findings: Findings) -> Iterator[str]:
    """Yield what the intervals hold, or why there are none."""
    one = findings.evaluation
    yield "<h2>Intervals</h2>"
    if one.half_widths is None:
        yield (
            f"<p>None: they are made of the errors on the validation crystals, at least {FEWEST}; there are "
            f"{len(findings.data.rows['val'])}.</p>"
        )
        return
    shares = coverage_of(findings.data.dataset, one.rows, np.abs(one.predictions - one.targets), one.half_widths)
    whole = shares[0]
    yield (
        f"<p>The {COVERAGE:.0%} interval held the true value of {whole.share:.0%} of the test crystals "
        f"({whole.low:.0%} to {whole.high:.0%} with so few of them); its mean half width is {whole.half_width:.3g} "
        f"{for_html(one.unit)}.</p>"
    )
    yield _picture(partial(calibration_plot, one, shares), "Shares held and half widths")


def _beside(findings: Findings) -> Iterator[str]:
    """Yield the model beside shallow ones."""
    unit = findings.evaluation.unit
    yield "<h2>Beside shallow models</h2>"
    yield "<p>On the same crystals; the smallest validation error says which one to use.</p>"
    yield from _table(
        ("model", f"validation MAE ({unit})", f"test MAE ({unit})", "95 % interval", "seconds"),
        [
            (
                one.name,
                f"{one.val_mae:.4g}",
                f"{one.test_mae.value:.4g}",
                f"{one.test_mae.low:.4g} to {one.test_mae.high:.4g}",
                f"{one.seconds:,.0f}",
            )
            for one in findings.candidates
        ],
    )


def _predicted(findings: Findings) -> Iterator[str]:
    """Yield the predictions of the rows without a value."""
    found, unit = findings.predicted, findings.evaluation.unit
    if found is None:
        return
    yield f"<h2>{len(found.ids):,} rows without a value, predicted</h2>"
    heads = ["crystal", f"prediction ({unit})", *([f"{COVERAGE:.0%} interval"] if found.lower is not None else [])]
    rows = []
    for k, label in enumerate(found.ids):
        cells = [label, "" if found.errors[k] else f"{found.values[k, 0]:.4g}"]
        if found.lower is not None and found.upper is not None:
            cells.append("" if found.errors[k] else f"{found.lower[k, 0]:.4g} to {found.upper[k, 0]:.4g}")
        rows.append((*cells, found.errors[k] or found.warnings[k]))
    yield from _table((*heads, "remarks"), rows)


def _left_out(findings: Findings) -> Iterator[str]:
    """Yield what was not used, and how the rest was understood."""
    yield "<h2>What was left out, and why</h2>"
    for note in findings.notes:
        yield f"<p>{for_html(note)}.</p>"
    if findings.unsplit:
        yield f"<p>{findings.unsplit:,} crystals have a value and no split, and were not used.</p>"
    if not findings.left_out:
        yield "<p>Nothing else.</p>"
        return
    counts = Counter(reason for _, reason in findings.left_out)
    yield from _table(("reason", "number"), [(reason, f"{count:,}") for reason, count in counts.most_common(20)])
    yield f"<details><summary>all {len(findings.left_out):,}</summary>"
    yield from _table(("id", "reason"), findings.left_out)
    yield "</details>"


def _use(findings: Findings) -> Iterator[str]:
    """Yield how to go on."""
    model = for_html(str(findings.model))
    trial = findings.settings
    length = (
        f"at most {trial.train.epochs} epochs" if trial.train.minutes is None else f"{trial.train.minutes:g} minutes"
    )
    yield "<h2>Predict others with it</h2>"
    python = f'import crystalframer as cf\ntable = cf.load("{model}").predict(structures)'
    for code in (f"crystalframer predict {model} FILES", python):
        yield f'<pre tabindex="0"><code>{code}</code></pre>'
    yield (
        f"<p>{for_html(trial.model.frame)} frames, {length}, seed {trial.train.seed}; "
        f"<code>config.yaml</code> beside it holds every setting, <code>model_card.md</code> says what it is for.</p>"
    )
    data, task = for_html(shlex.quote(trial.data.dataset)), for_html(shlex.quote(trial.data.task))
    yield "<h2>A smaller error, perhaps</h2>"
    yield (
        "<p>A model that has learned from many other crystals can go on with these; where they are few it often does "
        "better than one that has seen nothing else. The first command lists such models, the second trains one on and "
        "says which of all to use:</p>"
    )
    for code in ("crystalframer models", f"crystalframer finetune NAME {data} --task {task}"):
        yield f'<pre tabindex="0"><code>{code}</code></pre>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield '<div class="scroll"><table><thead><tr>'
    yield "".join(f"<th>{for_html(head)}</th>" for head in heads) + "</tr></thead><tbody>"
    for row in rows[:MOST_ROWS]:
        yield "<tr>" + "".join(f"<td>{for_html(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"
    if len(rows) > MOST_ROWS:
        yield f"<p>and {len(rows) - MOST_ROWS:,} more.</p>"


def _picture(draw: "Callable[[], Figure]", words: str) -> str:
    """Return a figure as part of the page."""
    from matplotlib import style

    stream = io.BytesIO()
    with style.context(dict(STYLE)):
        draw().savefig(stream, format="png", dpi=160)
    content = base64.b64encode(stream.getvalue()).decode()
    return f'<figure><img alt="{for_html(words)}" src="data:image/png;base64,{content}"></figure>'
