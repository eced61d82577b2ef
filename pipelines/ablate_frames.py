"""Train every frame type on real crystals and tabulate their errors: a sweep, from its file to its table."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from crystalframer.command_line import reports_user_errors

DEFAULT_SWEEP = Path(__file__).absolute().parents[1] / "sweeps" / "ablation_sample.yaml"

DESCRIPTION = """\
Train every frame type on real crystals and tabulate their errors.

A sweep file (sweeps/*.yaml) states a question, the settings all trials share and those that vary. Ray Tune runs the
trials on this machine (or, with --address, on a cluster), MLflow records their settings, curves, errors and
checkpoints, and the analysis draws the table and the learning curves from what MLflow recorded.

Stop it whenever you like (Ctrl-C, or pull the plug) and run the same command again: finished trials are kept, the
others go on from their checkpoints. Add seeds or frames to the file and only what is new runs.
"""

EPILOG = """\
examples:
  python pipelines/ablate_frames.py                                   six frames on the embedded sample
  python pipelines/ablate_frames.py --dry-run                         only list the trials
  python pipelines/ablate_frames.py sweeps/ablation_frames.yaml       the paper's ablation, on prepared data
  python pipelines/ablate_frames.py --set train.epochs=5 --runs /tmp/try     a quick look, kept apart

where things are, for a sweep NAME:
  runs/NAME/TRIAL/           settings, metrics, checkpoint and predictions of a trial
  runs/mlflow.db             what MLflow recorded, runs/mlartifacts its artifacts
  analysis/output/NAME/      the table and the figure

exit codes: 0 all trials are done, 1 some failed, 2 a mistake in the input (one line says which), 130 stopped by Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options = _parser().parse_args(argv)
    return _run(options)


@reports_user_errors
def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from crystalframer.orchestration.mlflow_server import ui_command
    from crystalframer.orchestration.spec import load_sweep
    from crystalframer.orchestration.sweep import EXIT_FAILED, SweepOptions, run_sweep

    spec = load_sweep(options.sweep, options.set)
    console = Console()
    if options.dry_run:
        for trial in spec.trials():
            print(trial.name)
        return 0
    where = SweepOptions(
        runs=options.runs,
        address=options.address,
        tracking_uri=options.tracking_uri,
        max_concurrent=options.max_concurrent,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    code = run_sweep(spec, where, console)
    if code > EXIT_FAILED:
        return code
    _analyse(spec.name, options)
    program = Path(sys.executable).with_name("crystalframer")
    print(f"MLflow UI: {options.tracking_uri or f'{program} ui --runs {options.runs}'}")
    if not options.tracking_uri:
        print(f"     or: {ui_command(options.runs)}")
    return code


def _analyse(sweep: str, options: argparse.Namespace) -> None:
    from analysis import ablation_table, learning_curves

    source = ["--tracking-uri", options.tracking_uri] if options.tracking_uri else ["--runs", str(options.runs)]
    arguments = ["--sweep", sweep, *source, *(["--output", str(options.output)] if options.output else [])]
    for script in (ablation_table, learning_curves):
        script.main(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sweep", nargs="?", type=Path, default=DEFAULT_SWEEP, help="sweep file (default: sweeps/ablation_sample.yaml)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a setting of the file's base or resources, e.g. train.epochs=10; may be repeated",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of the results (default: runs)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the table and the figure (default: analysis/output)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the trials' names and stop")
    parser.add_argument("--max-concurrent", type=_at_least_one, metavar="N", help="at most N trials at a time")
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="shortest time between two checkpoints of a trial, the most that a kill can cost (default: 10)",
    )
    parser.add_argument("--address", metavar="RAY", help="join a Ray cluster, e.g. auto (default: a Ray of its own)")
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        metavar="URI",
        help="record in this MLflow (default: $MLFLOW_TRACKING_URI, else a server of its own on runs/mlflow.db)",
    )
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number, at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
