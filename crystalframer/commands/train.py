"""Train one model: one data set, one target, one frame type, one seed. See ``crystalframer train --help``."""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.command_line import outliving_the_screen
from crystalframer.config import FRAMES, TrialConfig
from crystalframer.errors import UserError
from crystalframer.orchestration.sweeps.arguments import add_checkpoint_argument
from crystalframer.published import PUBLISHED
from crystalframer.resolving import TRAIN_PRESETS, build_trial, setting_value
from crystalframer.yaml_reading import parse_set

if TYPE_CHECKING:
    from crystalframer.data.dataset import TaskData
    from crystalframer.runs.tracker import Tracker
    from crystalframer.runs.trial import TrialJob

EPILOG = """\
examples:
  a folder of structures and a table (.csv or .xlsx), to a model and one page of errors and predictions:
    crystalframer train my_crystals/ data.xlsx --task hardness --minutes 30

  a first look, about a minute (20 epochs on 500 crystals of the embedded sample):
    crystalframer train --set data.train_size=500 --set train.epochs=20 --set train.batch_size=32 \\
        --set train.average_epochs=5 --set model.cutoff=6 --out runs/single/first

  the published training on JARVIS, formation energy, with max frames (the preset's data set is its own):
    crystalframer train --preset jarvis --task formation_energy --frame max

  the baseline without frames, the lightweight angular encoding, another seed:
    crystalframer train --frame none --set train.seed=1
    crystalframer train --set model.preset=lightweight

  ten minutes by the clock of this machine, whatever it is, with settings made for short trainings:
    crystalframer train --preset quick --minutes 10

  two targets at once; from a trained model, its first two blocks as they are; two processes; eight on a Ray cluster:
    crystalframer train --task formation_energy,e_hull
    crystalframer train --task bandgap --set train.start_from=OUT/checkpoint.pt --set train.frozen_blocks=2
    crystalframer train --processes 2
    crystalframer train --ray --processes 8

  a finished training goes on to 60 epochs, in runs/single/first-60-epochs:
    crystalframer train --lengthen runs/single/first --set train.epochs=60

Ctrl-C stops and saves; the same command resumes where it stopped and ends with the same numbers as a training that
never stopped (on the same machine with the same --threads and --processes). OUT is a run directory like those of a
sweep; `crystalframer status single` lists all in runs/single. `crystalframer files training.md` copies the page that
says more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer train`."""
    parser.description = "Train one model and report its test error."
    parser.epilog = EPILOG
    parser.add_argument(
        "own", nargs="*", type=Path, metavar="PATH", help="your structures (a folder or file) and your table of values"
    )
    parser.add_argument(
        "--preset", help=f"settings under a name, of a paper or for a processor: {', '.join(TRAIN_PRESETS)}"
    )
    parser.add_argument("--dataset", help="prepared data set (default: sample, which comes with the package)")
    parser.add_argument("--task", help="target property, or several joined by commas (default: formation_energy)")
    parser.add_argument("--frame", help=f"frame type: {', '.join(FRAMES)} (default: max)")
    parser.add_argument(
        "--minutes", metavar="M", help="train for so long by this machine's clock (train.minutes), not for some epochs"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="any other setting, e.g. train.epochs=20; may be repeated; `crystalframer files settings.md` copies the "
        "list of all",
    )
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/single/NAME from the settings)")
    parser.add_argument(
        "--lengthen", type=Path, metavar="RUN", help="go on from a finished training, with more epochs (--set)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--processes", type=int, default=1, help="processes that train together (default: 1)")
    parser.add_argument(
        "--ray", action="store_true", help="start them on the Ray cluster that RAY_ADDRESS names, else a Ray of our own"
    )
    parser.add_argument(
        "--threads", type=int, help="threads of torch per process (default: its own choice, or a share)"
    )
    add_checkpoint_argument(parser, "--save-seconds")
    parser.add_argument(
        "--track",
        action="store_true",
        help="record in MLflow: the server that MLFLOW_TRACKING_URI names, else the one on a cluster's head, else one "
        "of its own on runs/mlflow.db",
    )


@outliving_the_screen()
def run(arguments: argparse.Namespace) -> int:
    """Train as the command line says; return the exit code."""
    if arguments.lengthen is not None:
        return _lengthen(arguments)
    if arguments.own:
        return _train_on_table(arguments)
    config = build_trial(overrides(arguments))

    from crystalframer.data.registry import load_task_once
    from crystalframer.orchestration.cluster.surroundings import default_runs
    from crystalframer.runs.single import default_name
    from crystalframer.training.devices import check_device

    check_device(arguments.device)
    folder = arguments.out or default_runs() / "single" / default_name(config)
    return _train(config, load_task_once(config.data), folder.absolute(), arguments)


def _lengthen(arguments: argparse.Namespace) -> int:
    """Let a finished training go on in another folder; return the exit code."""
    if arguments.own or any((arguments.preset, arguments.dataset, arguments.task, arguments.frame)):
        raise UserError("--lengthen keeps data and model: leave out PATH, --preset, --dataset, --task and --frame")
    if arguments.minutes is not None:
        raise UserError("--lengthen counts epochs: give --set train.epochs=N instead of --minutes")

    from crystalframer.data.registry import load_task_once
    from crystalframer.runs.lengthening import course, longer_trial
    from crystalframer.training.devices import check_device

    check_device(arguments.device)
    parent = arguments.lengthen.absolute()
    trial = longer_trial(parent, parse_set(arguments.settings))
    folder = arguments.out or parent.with_name(f"{parent.name}-{trial.train.epochs}-epochs")
    print(course(trial))
    return _train(trial, load_task_once(trial.data), folder.absolute(), arguments, parent)


def _train_on_table(arguments: argparse.Namespace) -> int:
    """Prepare a folder and a table, train on them, and leave a page; return the exit code."""
    if arguments.dataset is not None or arguments.preset is not None:
        raise UserError("a folder and a table are the data set: leave out --dataset and --preset, or the paths")
    from crystalframer.data.preparation.targets import task_name

    if arguments.task is not None:
        arguments.task = task_name(arguments.task)[0]  # as the column is called in the table
    build_trial(overrides(arguments))  # mistakes show before anything is written

    from crystalframer.data.progress import on_stderr
    from crystalframer.orchestration.cluster.surroundings import default_runs
    from crystalframer.pretrained.own_table import conclude, prepare_table, source_and_table
    from crystalframer.training.devices import check_device

    check_device(arguments.device)
    source, table = source_and_table(arguments.own)
    own, data = prepare_table(source, table, arguments.task, on_stderr)
    for line in own.summary(data):
        print(line)
    chosen = {**overrides(arguments), "data.task": own.data.task}
    config = build_trial({**own.settings(len(data.rows["train"])), **chosen})
    folder = (arguments.out or default_runs() / "single" / own.name).absolute()
    code = _train(config, data, folder, arguments)
    if code == 0:
        print("training shallow models to compare with, and writing the page", flush=True)
        print(f"open {conclude(own, data, folder)}")
    return code


def _train(
    config: TrialConfig, data: "TaskData", folder: Path, arguments: argparse.Namespace, parent: Path | None = None
) -> int:
    """Train, resume or lengthen `parent` in a folder as the command line says; return the exit code."""
    from crystalframer.orchestration.cluster.surroundings import default_runs
    from crystalframer.runs.console import on_console
    from crystalframer.runs.recording import git_commit
    from crystalframer.runs.run_directory import RunDirectory, SupersededError
    from crystalframer.runs.single import check_single, error_lines, list_single, train_single
    from crystalframer.runs.trial import Trial, TrialJob
    from crystalframer.training.devices import idle_gpu
    from crystalframer.training.launch import launch
    from crystalframer.training.optimizer import TrainingDivergedError
    from crystalframer.training.processes import LostProcessError

    directory, lengthened = RunDirectory(folder), None if parent is None else RunDirectory(parent)
    check_single(config, directory, data, lengthened)
    job = TrialJob(
        Trial(directory.path.name, config),
        directory,
        parent=lengthened,
        tags={"sweep": directory.path.parent.name, "current": "true", "git_commit": git_commit()},
        cpus=_threads(arguments),
        checkpoint_seconds=arguments.checkpoint_seconds,
    )
    start = launch
    if arguments.ray:
        from crystalframer.orchestration.cluster.distributed import launch_on_ray

        start = functools.partial(launch_on_ray, threads=job.cpus or 1, out=directory.path)
    if directory.path.parent.parent == default_runs().absolute():
        list_single(job.trial.planned(data.unit), directory.path.parent)
    with _tracked(job, arguments) as make_tracker, on_console() as show:
        if (result := directory.result()) is not None:
            show(f"nothing left to do after epoch {result['final']['step']}: {directory.path}")
            for line in error_lines(directory, data):
                show(line)
            return 0
        if sentence := idle_gpu(arguments.device):
            show(sentence)
        try:
            return start(train_single, (job, make_tracker), arguments.processes, arguments.device, show)
        except (TrainingDivergedError, LostProcessError, SupersededError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


@contextmanager
def _tracked(job: "TrialJob", arguments: argparse.Namespace) -> Iterator["Callable[[], Tracker]"]:
    """Yield what makes the tracker of a job, one that records in MLflow where --track asks for it."""
    from crystalframer.runs.tracker import Tracker

    if not arguments.track:
        yield Tracker
        return
    from crystalframer.orchestration.cluster.surroundings import default_runs, surroundings
    from crystalframer.orchestration.tracking import gate
    from crystalframer.orchestration.tracking.addresses import tracking_address
    from crystalframer.orchestration.tracking.buffered import mlflow_tracker
    from crystalframer.orchestration.tracking.server import mlflow_of
    from crystalframer.runs.recording import record_finished

    with ExitStack() as stack:
        uri = tracking_address()
        if arguments.ray:
            _, uri = stack.enter_context(surroundings(None, default_runs(), None))
        tracking = stack.enter_context(mlflow_of(default_runs(), uri))
        experiment = tracking.experiment(job.tags["sweep"])
        make_tracker = functools.partial(mlflow_tracker, experiment.tracking_uri, experiment.id, gate.credentials())
        yield make_tracker
        recorded = experiment.runs().get(job.name)
        if job.directory.result() is not None and (recorded is None or recorded.status != "FINISHED"):
            record_finished(make_tracker(), job.name, job.trial.config, job.directory)


def _threads(arguments: argparse.Namespace) -> int | None:
    """Return the threads of each process: several share the cores."""
    from crystalframer.environment import cores

    if arguments.processes < 1:
        raise UserError(f"--processes: got {arguments.processes}, expected at least 1")
    if arguments.threads is None and arguments.processes > 1:
        return max(1, cores() // arguments.processes)
    threads: int | None = arguments.threads
    return threads


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the dotted settings of the command line; --set comes last."""
    named = {
        "train.preset": arguments.preset,
        "data.dataset": arguments.dataset,
        "data.task": arguments.task,
        "model.frame": arguments.frame,
        "train.minutes": None if arguments.minutes is None else setting_value("train.minutes", arguments.minutes),
    }
    overrides = {key: value for key, value in named.items() if value is not None}
    overrides |= parse_set(arguments.settings)
    if (preset := overrides.get("train.preset")) in PUBLISHED:
        overrides.setdefault("data.dataset", preset)
    return overrides
