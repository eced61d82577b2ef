"""Train every frame type on real crystals and tabulate their errors: a sweep, from its file to its table."""

import argparse
import functools
import shlex
import sys
from pathlib import Path
from typing import Any

from crystalframer.beside import OUTPUT, load
from crystalframer.command_line import outliving_the_screen, reports_user_errors
from crystalframer.environment import is_writable
from crystalframer.errors import UserError
from crystalframer.orchestration.sweeps.arguments import add_file_argument, add_sweep_arguments, sweep_options

DESCRIPTION = """\
Train every frame type on real crystals and tabulate their errors.

A sweep file (sweeps/*.yaml) states a question, the settings all trials share and those that vary. Ray Tune runs the
trials on this machine, or on the cluster it finds itself on; MLflow records their settings, curves, errors and
checkpoints, and the analysis draws the table and the learning curves from what MLflow recorded. `crystalframer files
sweeps.md` copies the page on what a file says, clusters.md the one on clusters.

Stop it whenever you like (Ctrl-C, or pull the plug) and run the same command again: finished trials are kept, the
others resume from their checkpoints. Add seeds or frames to the file and only what is new runs.
"""

EPILOG = """\
examples:
  six frames on the embedded sample; before, only list the trials and their hours:
    crystalframer sweep
    crystalframer sweep --dry-run
  the paper's ablation, on prepared data:
    crystalframer sweep ablation_frames
  a quick look, kept apart:
    crystalframer sweep --set train.epochs=5 --runs /tmp/try
  a question of your own:
    crystalframer files ablation_sample.yaml
    mv ablation_sample.yaml mine.yaml      (change question, expectation, base, grid)
    crystalframer sweep mine.yaml

where things are, for a sweep NAME:
  runs/NAME/TRIAL/           settings, metrics, checkpoint and predictions of a trial
  runs/mlflow.db             what MLflow recorded, runs/mlartifacts its artifacts
  analysis/output/NAME/      the table and the figure
  runs/NAME/report.md        what became of every trial; meanwhile: crystalframer status NAME

exit codes: 0 all trials are done and the table is made, 1 some failed or the table could not be made, 2 a mistake in
the input (one line says which), 3 the budget is used up, 130 stopped by Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer sweep`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add_file_argument(parser, "sweep", default="ablation_sample")
    add_sweep_arguments(parser, example="train.epochs=10", dry_run="list the trials with estimated hours and stop")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the table and the figure (default: analysis/output; on a cluster, analysis beside --runs)",
    )
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help="train there, e.g. cpu on machines whose GPUs only schedule (default: the "
        "GPU where resources.gpus_per_trial asks for one, else the CPU)",
    )


@outliving_the_screen()
def run(options: argparse.Namespace) -> int:
    """Run the sweep of a file, to its table; return the exit code."""
    from rich.console import Console

    from crystalframer.orchestration.sweeps.driver import EXIT_FAILED
    from crystalframer.orchestration.sweeps.spec import load_sweep
    from crystalframer.orchestration.sweeps.sweep import run_sweep

    spec = load_sweep(options.sweep, options.set)
    console = Console()
    if options.dry_run:
        from crystalframer.orchestration.sweeps.estimates import describe_sweep

        print(describe_sweep(spec.trials(), spec.resources, options.runs, spec.name))
        return 0
    with sweep_options(options, device=options.device) as where:
        output = options.output or (options.runs.absolute().parent / "analysis" if where.address else OUTPUT)
        if not is_writable(output):
            raise UserError(f"the table could not be written to {output.absolute()}: name another folder with --output")
        analyse = functools.partial(_analyse, spec.name, options.runs, where.tracking_uri, output)
        code = run_sweep(spec, where, console, analyse)
    if code <= EXIT_FAILED:
        _say_where(spec.name, where.tracking_uri, options.runs)
    return code


def _analyse(sweep: str, runs: Path, tracking_uri: str | None, output: Path) -> list[Path]:
    """Draw the table and the learning curves; return their files, none where one of them could not be made."""
    source = _source(runs, tracking_uri)
    scripts = map(load, ("analysis.tables.ablation_table", "analysis.figures.learning_curves"))
    arguments = load("analysis.results").parse_arguments(None, ["--sweep", sweep, *source, "--output", str(output)])
    context = functools.cache(lambda: load("analysis.items").context_of(arguments))  # read once: thousands take minutes
    files: list[Path] = []

    def make(script: Any) -> int:
        product = script.ITEM.made_of(context())
        files.extend([*product.tables, *product.pictures])
        return 0

    codes = [reports_user_errors(make)(script) for script in scripts]
    return [] if any(codes) else files


def _source(runs: Path, tracking_uri: str | None) -> list[str]:
    """Return the arguments that tell a script of `analysis` where a sweep's results are."""
    return ["--tracking-uri", tracking_uri] if tracking_uri else ["--runs", str(runs)]


def _say_where(sweep: str, tracking_uri: str | None, runs: Path) -> None:
    from crystalframer.orchestration.tracking.server import ui_command

    program = Path(sys.executable).with_name("crystalframer")
    figures = [str(program), "figures", "--sweep", sweep, *_source(runs, tracking_uri)]
    print(f"every table and figure: {shlex.join(figures)}")
    print(f"MLflow UI: {tracking_uri or shlex.join([str(program), 'ui', '--runs', str(runs)])}")
    if not tracking_uri:
        print(f"     or: {ui_command(runs)}")
