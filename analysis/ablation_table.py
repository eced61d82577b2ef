"""The ablation table: test error per frame, mean ± standard deviation over seeds, as Markdown, CSV and LaTeX.

    python analysis/ablation_table.py --sweep ablation_sample

reads runs/mlflow.db and writes analysis/output/<sweep>/ablation_table.{md,csv,tex}.
"""

import sys
from collections.abc import Sequence

import pandas as pd

from analysis.comparison import Comparison, Row, Spread, compare
from analysis.published import Published, load_published
from analysis.results import Results, parse_arguments, read_results, shown
from crystalframer.command_line import reports_user_errors

EMPTY = ""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the table's three files and print the Markdown; return the exit code."""
    arguments = parse_arguments(__doc__, argv)
    results = read_results(arguments)
    comparisons = compare(results)
    folder = arguments.output / results.sweep
    folder.mkdir(parents=True, exist_ok=True)
    markdown = to_markdown(results, comparisons)
    csv = to_frame(comparisons).to_csv(index=False, lineterminator="\n")
    for suffix, text in {"md": markdown, "csv": csv, "tex": to_latex(results, comparisons)}.items():
        (folder / f"ablation_table.{suffix}").write_text(text, encoding="utf-8", newline="\n")
    print(markdown)
    print(f"written: {shown(folder)}/ablation_table.{{md,csv,tex}}")
    return 0


def to_markdown(results: Results, comparisons: Sequence[Comparison]) -> str:
    """Return every comparison as a section with its data, its table and its caveats."""
    lines = [f"# {results.sweep}", "", f"{results.progress()}. ± is the sample standard deviation over seeds."]
    for comparison in comparisons:
        headings, rows = cells(comparison)
        lines += ["", f"## {comparison.dataset}, {comparison.task}", "", *_sentences(comparison), ""]
        lines += [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
        best = _best(comparison)
        lines += [_line(_emphasised(row, "**{}**") if n == best else row) for n, row in enumerate(rows)]
    if results.left_out:
        lines += ["", "Left out:", "", *(f"- {entry}" for entry in results.left_out)]
    return "\n".join(lines) + "\n"


def to_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return all comparisons as one long table with unrounded numbers; nothing finished = empty."""
    return pd.DataFrame([_record(comparison, row) for comparison in comparisons for row in comparison.rows])


def to_latex(results: Results, comparisons: Sequence[Comparison]) -> str:
    """Return one booktabs table per comparison."""
    lines = [f"% {results.sweep}: {results.progress()}. Needs \\usepackage{{booktabs}}."]
    for comparison in comparisons:
        headings, rows = cells(comparison)
        best = _best(comparison)
        caption = " ".join([f"{comparison.dataset}, {comparison.task}.", *_sentences(comparison)])
        lines += [
            "",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            _latex_line([_escape(heading) for heading in headings]),
            r"\midrule",
        ]
        for n, row in enumerate(rows):
            escaped = [_escape(cell) for cell in row]
            lines.append(_latex_line(_emphasised(escaped, r"\textbf{{{}}}") if n == best else escaped))
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the headings and one list of texts per row; a row without finished trials has empty cells."""
    published = load_published(comparison.dataset)
    unit = comparison.unit
    headings = ["frames", f"test MAE ({unit})", "seeds", f"validation MAE ({unit})", "baseline / MAE"]
    headings += ["parameters", "seconds per epoch"]
    if published:
        headings.append(f"published MAE ({unit})")
    return headings, [_cells(comparison, row, published) for row in comparison.rows]


def _cells(comparison: Comparison, row: Row, published: Published | None) -> list[str]:
    texts = [row.label, *[EMPTY] * 6]
    if row.trials:
        texts[1:] = [
            _spread(row.test_mae),
            str(len(row.trials)),
            _spread(row.val_mae),
            f"{row.baseline_ratio:.2f}",
            f"{row.num_parameters:,}",
            f"{row.seconds_per_epoch:.2f}",
        ]
    if published:
        mae = published.mae(comparison.task, row.model)
        texts.append(EMPTY if mae is None else f"{mae:.4f}")
    return texts


def _record(comparison: Comparison, row: Row) -> dict[str, object]:
    published = load_published(comparison.dataset)
    found = bool(row.trials)
    return {
        "dataset": comparison.dataset,
        "task": comparison.task,
        "unit": comparison.unit,
        "frame": row.frame,
        "variant": row.variant,
        "seeds": len(row.trials),
        "test_mae_mean": row.test_mae.mean if found else None,
        "test_mae_std": row.test_mae.std if found else None,
        "val_mae_mean": row.val_mae.mean if found else None,
        "val_mae_std": row.val_mae.std if found else None,
        "baseline_mae": row.baseline_mae if found else None,
        "baseline_ratio": row.baseline_ratio if found else None,
        "parameters": str(row.num_parameters) if found else None,
        "seconds_per_epoch": row.seconds_per_epoch if found else None,
        "published_mae": published.mae(comparison.task, row.model) if published else None,
    }


def _sentences(comparison: Comparison) -> list[str]:
    """Say what the numbers were measured on, and how they relate to published ones."""
    sizes = " / ".join(comparison.size(split) for split in ("train", "val", "test"))
    sentences = [
        f"{sizes} crystals (train / validation / test), {comparison.common('train.epochs')} epochs, "
        f"batch {comparison.common('train.batch_size')}, cutoff {comparison.common('model.cutoff')} Å, "
        f"{comparison.tag('kernel') or 'unknown'} kernel.",
        f"Baseline, predicting the training mean: test MAE {comparison.baseline_mae:.4f} {comparison.unit}.",
    ]
    published = load_published(comparison.dataset)
    if published and comparison.task in published.tasks:
        task = published.tasks[comparison.task]
        full = [str(getattr(task, split)) for split in ("train", "val", "test")]
        subset = [comparison.size(split) for split in ("train", "val", "test")] != full
        sentences.append(f"Published: CrystalFramer, ICLR 2025, on the full split ({' / '.join(full)}).")
        if subset:
            sentences.append("The trials here saw another selection of crystals: not directly comparable.")
    return sentences


def _best(comparison: Comparison) -> int | None:
    """Return the position of the row with the lowest test MAE, None where there is nothing to compare."""
    found = {n: row.test_mae.mean for n, row in enumerate(comparison.rows) if row.trials}
    return min(found, key=found.__getitem__) if len(found) > 1 else None


def _emphasised(row: Sequence[str], template: str) -> list[str]:
    return [row[0], template.format(row[1]), *row[2:]]


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.4f}" + ("" if spread.std is None else f" ± {spread.std:.4f}")


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def _escape(text: str) -> str:
    for plain, latex in {"_": r"\_", "%": r"\%", "&": r"\&", "±": r"$\pm$", "Å": r"\AA{}", "₂": "$_2$"}.items():
        text = text.replace(plain, latex)
    return text


if __name__ == "__main__":
    sys.exit(main())
