"""Writes docs/results.md from the recorded results: what was asked, what came out, what it cost, what was not run.

    python analysis/results_page.py

reads results/*/ and the sweeps' files, so that a sweep without recorded results is named as such.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from analysis import against_peers
from analysis.comparison import FRAME_LABELS, Comparison, compare
from analysis.documents import EMPTY, Document, Table, markdown_rows, to_markdown
from analysis.exported import SWEEP, Exported, check, read
from analysis.figures import error_against_crystals, error_against_time
from analysis.items import Context
from analysis.pairs import find_pairs, lowest
from analysis.peers import methods_of, recorded_peers
from analysis.results import FinishedTrial, Results, shown
from analysis.tables import ablation_table, published_gap
from crystalframer.atomic_files import replace_text
from crystalframer.beside import HOME
from crystalframer.command_line import HelpFormatter, reports_user_errors
from crystalframer.config import TrialConfig
from crystalframer.escaping import for_markdown
from crystalframer.orchestration.sweeps.spec import Sweep, load_sweep
from crystalframer.pretrained.listing import PACKAGE, read_list
from crystalframer.yaml_reading import mapping, read_yaml

INTRODUCTION = """\
# Results

Written by `python analysis/results_page.py` from the files in `results/`; nothing here is typed in. Every error follows
from recorded test predictions: `crystalframer figures --results results/NAME` draws all tables and figures of a study
again without training, `--check` compares hashes and recomputes the errors. What the tests mean:
[analysis.md](analysis.md). Single-task results and transfer never share a table."""


IMAGES = "images"
"""Folder of the page's pictures, beside the page."""


@dataclass(frozen=True, eq=False)
class _Study:
    """A recorded study, read once."""

    content: Exported
    context: Context
    compared: Document | None
    """With the other methods recorded beside it."""

    @classmethod
    def of(cls, folder: Path) -> "_Study":
        check(folder)
        content = read(folder)
        context = Context(content.results(), content.record.sweep, Path())
        peers = recorded_peers(context.results)
        return cls(content, context, against_peers.build(context, peers) if peers else None)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=HOME / "results", help="folder of recorded results")
    parser.add_argument("--sweeps", type=Path, default=HOME / "sweeps", help="folder of the sweeps' files")
    parser.add_argument("--output", type=Path, default=HOME / "docs" / "results.md", help="the page")
    arguments = parser.parse_args(argv)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    replace_text(arguments.output, page(arguments.results, arguments.sweeps))
    pictures = draw(arguments.results, arguments.output.parent / IMAGES)
    for path in [arguments.output, *pictures]:
        print(f"written: {shown(path)}")
    return 0


def page(results: Path, sweeps: Path) -> str:
    """Return the page.

    Raises:
        UserError: a recorded result is damaged, or its numbers do not follow from its predictions.
    """
    folders = _recorded(results)
    studies = [_Study.of(folder) for folder in folders]
    parts = [INTRODUCTION, *([_at_a_glance(studies)] if studies else []), *(_study(study, sweeps) for study in studies)]
    parts.append(_models())
    parts.append(_not_run(sweeps, {folder.name for folder in folders}))
    return "\n\n".join(parts) + "\n"


def draw(results: Path, folder: Path) -> list[Path]:
    """Draw the pictures of every study that other methods are recorded beside; return them."""
    drawn = []
    for content in map(read, _recorded(results)):
        if len(content.peers):
            context = Context(content.results(), content.record.sweep, folder)
            comparison, peers = context.comparisons[0], recorded_peers(context.results)
            with context.style():
                drawn += [
                    context.save_picture(item.draw(comparison, peers), _picture(content, item))
                    for item in _pictures(comparison)
                ]
    return drawn


def _pictures(comparison: Comparison) -> list[ModuleType]:
    """Return the figures that the page shows of a study."""
    return [error_against_time] + [error_against_crystals] * error_against_crystals.has_sizes(comparison)


def _picture(content: Exported, item: ModuleType) -> str:
    """Return the name of a study's picture, without suffix."""
    return f"{content.record.sweep}_{item.ITEM.name}"


def _recorded(results: Path) -> list[Path]:
    return sorted(path.parent for path in results.glob(f"*/{SWEEP}"))


def _at_a_glance(studies: Sequence[_Study]) -> str:
    """Return the section of what each study found, one line for each of its comparisons."""
    headings = ["study", "trials", "core hours", "row with the lowest test MAE", "published", "real differences"]
    headings += ["lowest of rows and ensembles", "certainly better than", "certainly worse than"]
    rows = [_found(study, comparison) for study in studies for comparison in compare(study.context.results)]
    note = (
        "Real differences: of all pairs of rows, corrected for their number. The lowest of rows and ensembles of a "
        "row's seeds is compared with the other methods that are recorded beside the study, corrected like all of them."
    )
    return _section("## At a glance", Table("", headings, rows, [note]))


def _found(study: _Study, comparison: Comparison) -> list[str]:
    best = lowest(comparison)
    pairs = [pair.real for pair in find_pairs(comparison) if pair.real is not None]
    published = [gap for gap in published_gap.gaps(comparison) if best is not None and gap.frames == best.label]
    lead = min(methods_of(comparison), key=lambda method: float(method.errors.absolute.mean()), default=None)
    told: dict[str, list[str]] = {}
    for entry in study.compared.records.to_dict("records") if study.compared else ():
        if lead is not None and (entry["task"], entry["ours"]) == (comparison.task, lead.label):
            told.setdefault(entry["verdict"], []).append(entry["peer"])
    return [
        study.content.record.sweep,
        str(len(comparison.trials)),
        _hours(study.content, comparison.trials)[1],
        f"{best.name}: {best.test_mae} {comparison.unit}" if best else EMPTY,
        f"{published[0].published_mae:.4f}" if published else EMPTY,
        f"{pairs.count('yes')} of {len(pairs)}" if pairs else EMPTY,
        f"{lead.label}: {float(lead.errors.absolute.mean()):.4f}" if lead else EMPTY,
        *(", ".join(told.get(word, [])) or EMPTY for word in ("better", "worse")),
    ]


def _study(study: _Study, sweeps: Path) -> str:
    content, results, record = study.content, study.context.results, study.content.record
    question, *rest = [part for part in record.description.split("\n\n") if part.strip()] or [record.sweep]
    lines = [f"## {for_markdown(record.sweep)}", f"**{for_markdown(' '.join(question.split()))}**"]
    lines += [for_markdown(" ".join(part.split())) for part in rest]
    document = ablation_table.build(results)
    # the sections of the table's own document, one level deeper and without its title
    body = to_markdown(Document("", document.tables, document.notes)).split("\n", 1)[1]
    lines.append(body.replace("\n## ", "\n### ").strip())
    for comparison in compare(results):
        rows = [(row.label, str(len(row.trials)), *_hours(content, row.trials)) for row in comparison.finished]
        costs = Table("", ("frames", "trials", "hours", "core hours"), rows)
        lines.append("\n".join(markdown_rows(costs)))
    path = sweeps / f"{record.sweep}.yaml"
    transfer = any(comparison.transfer for comparison in compare(results))  # the models it starts from are not here
    if not results.complete and path.is_file() and not transfer:
        lines.append(f"Not run: {'; '.join(_lacking(results, load_sweep(path)))}.")
    tables = published_gap.build(study.context).tables
    lines += [_section("### Beside published errors", table) for table in tables]
    if study.compared:
        (table, *_) = study.compared.tables
        for item in _pictures(study.context.comparisons[0]):
            lines.append(f"![{item.ITEM.text}]({IMAGES}/{_picture(content, item)}.png)")
        lines.append(_section("### Beside other methods", table))
    commits = sorted({trial.tags.get("git_commit", "unknown")[:12] for trial in record.trials})
    lines.append(f"Hours are wall-clock time of the epochs. Trained at {', '.join(commits)}.")
    return "\n\n".join(lines)


def _section(heading: str, table: Table) -> str:
    return "\n".join([heading, "", *map(for_markdown, table.notes), "", *markdown_rows(table)])


def _hours(content: Exported, trials: Sequence[FinishedTrial]) -> tuple[str, str]:
    """Return the hours and the core hours of trials."""
    keys = {trial.run_key for trial in trials}
    found = [trial for trial in content.record.trials if trial.run_key in keys]
    hours = sum(trial.hours for trial in found)
    cores = [trial.hours * trial.cores for trial in found if trial.cores is not None]
    return f"{hours:.2f}", f"{sum(cores):.2f}" if len(cores) == len(found) else "unknown"


def _lacking(results: Results, sweep: Sweep) -> list[str]:
    """Return the rows that lack trials which the sweep asks for, with their seeds."""
    labels = {_but_seed(row.trials[0].config): row.label for found in compare(results) for row in found.finished}
    there = {trial.config.fingerprint() for trial in results.trials}
    seeds: dict[str, list[str]] = {}
    for config in (trial.config for trial in sweep.trials()):
        if config.fingerprint() not in there:
            label = labels.get(_but_seed(config), FRAME_LABELS[config.model.frame])
            seeds.setdefault(label, []).append(str(config.train.seed))
    return [f"{label} (seed{'s' * (len(found) > 1)} {', '.join(found)})" for label, found in seeds.items()]


def _but_seed(config: TrialConfig) -> TrialConfig:
    return replace(config, train=replace(config.train, seed=0, start_from=None, start_hash=None, frozen_blocks=0))


def _models() -> str:
    """Return the section of the models that come with the package, from their list."""
    listed = sorted(read_list(PACKAGE).items())
    headings = ["model", "property", "test MAE (95 % interval)", "90 % intervals hold", "crystals", "minutes", "MB"]
    rows = [
        [
            name,
            f"{target.property}, {target.unit}",
            f"{target.mae:.4f} ({target.mae_low:.4f} to {target.mae_high:.4f})",
            f"{100 * target.coverage:.1f} %",
            " / ".join(f"{size:,}" for size in entry.crystals),
            f"{entry.minutes:.0f}",
            f"{entry.bytes / 1e6:.1f}",
        ]
        for name, entry in listed
        for target in entry.targets
    ]
    note = (
        "Measured when they were packed, on their test crystals: the error, and the share of true values within the "
        "interval that is meant to hold 90 %. Crystals: training / validation / test. Minutes: of one CPU core, all "
        "seeds together, by the median epoch."
    )
    told = [f"- `{name}`: {for_markdown(entry.data)}" for name, entry in listed]
    return "\n".join([_section("## Models of the package", Table("", headings, rows, [note])), "", *told])


def _not_run(sweeps: Path, recorded: set[str]) -> str:
    lines = [
        "## What is not recorded",
        "",
        "These sweeps are declared, and nothing is claimed about their questions:",
        "",
    ]
    for path in sorted(sweeps.glob("*.yaml")):
        content = mapping(str(path), read_yaml(path))
        if path.stem not in recorded and "grid" in content:
            question = " ".join(str(content["question"]).split())
            lines.append(f"- `{path.stem}`: {for_markdown(question)}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
