"""Search for better settings: Optuna suggests, Ray Tune runs, bad trials stop early, the best are confirmed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from crystalframer.command_line import outliving_the_screen
from crystalframer.orchestration.sweeps.arguments import add_file_argument, add_sweep_arguments, sweep_options

if TYPE_CHECKING:
    from crystalframer.orchestration.search.search_spec import Search

DESCRIPTION = """\
Search for better settings of model, frame, basis and optimiser.

A search file (sweeps/hpo_*.yaml) states a question, the settings all trials share, and where to search the others.
Optuna (TPE) suggests settings, trials that are worse than others at the same epoch stop early (ASHA), and the best
ones are run again with other seeds. Or a population trains side by side and its worst members take over from its
best (PBT).

Stop it whenever you like and run the same command again: no trial is repeated and none is lost.
"""

EPILOG = """\
examples:
  a search on the embedded sample; population-based training on the same:
    crystalframer search
    crystalframer search hpo_pbt_sample
  resume with more trials:
    crystalframer search --set budget.trials=40
  from another shell, where it stands:
    crystalframer status hpo_sample

where things are, for a search NAME:
  runs/NAME/search.json        best settings, importances, history; search_history.csv beside it
  runs/NAME/TRIAL/             settings, metrics, checkpoint of a trial
  runs/optuna.db               its trials for optuna-dashboard sqlite:///runs/optuna.db; written, never read
  runs/mlflow.db               what MLflow recorded

exit codes: 0 the search is over, 1 some trials failed, 2 a mistake in the input, 3 hours or money are used up,
130 stopped by Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer search`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add_file_argument(parser, "search", default="hpo_sample")
    add_sweep_arguments(
        parser, example="budget.trials=40", dry_run="say what would run, with estimated hours, and stop"
    )
    parser.add_argument(
        "--study-storage",
        metavar="URL",
        help="database to export the Optuna study to, e.g. postgresql://optuna@HOST/optuna; not MLflow's (default: "
        "$CRYSTALFRAMER_STUDIES, else runs/optuna.db)",
    )


@outliving_the_screen()
def run(options: argparse.Namespace) -> int:
    """Run the search of a file; return the exit code."""
    from rich.console import Console

    from crystalframer.orchestration.search.search_spec import load_search

    spec = load_search(options.search, options.set)
    if options.dry_run:
        print(_outlook(spec, options.runs))
        return 0
    from crystalframer.orchestration.search.search import run_search

    with sweep_options(options) as where:
        code = run_search(spec, where, Console(), storage=options.study_storage)
    _print_best(options.runs / spec.name / "search.json")
    return code


def _outlook(spec: "Search", runs: Path) -> str:
    """Return what a search would run at most, with estimated hours."""
    from crystalframer.orchestration.sweeps.estimates import Pace, hours_of, total_of

    one = Pace(runs).of(spec.default, on_gpu=bool(spec.resources.gpus_per_trial))
    confirming = spec.confirm.best * len(spec.confirm.seeds)
    number = spec.population.members if spec.method == "pbt" else spec.budget.trials
    lines = [
        f"{spec.name}: {number} trials of at most {one.epochs} epochs, then {confirming} to confirm the best",
        *(f"  {key}: {where.kind} {list(where.corners())}" for key, where in spec.space.items()),
        *([f"  trials may end at epochs {list(spec.early_stopping.rungs(one.epochs))}"] if spec.early_stopping else []),
        f"a trial at the file's base: {hours_of(one)}",
        total_of([one] * (number + confirming), spec.resources),
    ]
    return "\n".join(lines)


def _print_best(path: Path) -> None:
    import json

    if not path.exists():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if not found["best"]:
        return
    best = found["best"][0]
    print(f"best: {best['trial']}, validation MAE {best['val_mae']:.4f} {found['unit']}")
    for key, value in best["values"].items():
        print(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    print(f"epochs: {found['epochs']['used']} of {found['epochs']['without_early_stopping']} without early stopping")
    print(f"written: {path}")
