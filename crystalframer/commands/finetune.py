"""Train on from a trained model, beside shallow models on the same split that cost seconds."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.command_line import outliving_the_screen
from crystalframer.commands.model_argument import add_model, one_model
from crystalframer.errors import UserError
from crystalframer.yaml_reading import parse_set

if TYPE_CHECKING:
    from crystalframer.config import TrialConfig
    from crystalframer.data.dataset import TaskData

EPILOG = """\
The architecture is the source's; training is short, and ends and is chosen by the validation error (train.keep=best,
train.patience=15). Beside it stand gradient-boosted trees on the composition, and ridge regression and trees on the
source's embedding: the last line says which of them to use. Ctrl-C stops and saves; the same command resumes.

examples:
  crystalframer finetune NAME my_crystals --task hardness
  crystalframer finetune NAME my_crystals --task hardness --seeds 3 --from-scratch
  crystalframer finetune NAME my_crystals --task hardness --set train.frozen_blocks=2 --set train.learning_rate=1e-4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer finetune`."""
    parser.description = "Train on from a trained model, on a data set of your own."
    parser.epilog = EPILOG
    add_model(parser)
    parser.add_argument("dataset", metavar="DATA", help="prepared data set (`crystalframer data` lists them)")
    parser.add_argument("--task", required=True, help="target property")
    parser.add_argument("--seeds", type=int, default=1, help="trainings with different seeds (default: 1)")
    parser.add_argument("--from-scratch", action="store_true", help="train the same model from fresh weights, too")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="a setting")
    parser.add_argument("--out", type=Path, help="folder of the trainings (default: runs/finetune/DATA-TASK-MODEL)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")


@outliving_the_screen()
def run(arguments: argparse.Namespace) -> int:
    """Fine-tune as the command line says; return the exit code."""
    if arguments.seeds < 1:
        raise UserError(f"--seeds: got {arguments.seeds}, expected at least 1")

    from crystalframer.config import build_trial
    from crystalframer.data.registry import load_task
    from crystalframer.orchestration.cluster.surroundings import default_runs
    from crystalframer.prediction.loading import load_predictor
    from crystalframer.pretrained.baselines import baselines, inherited, table_of
    from crystalframer.training.devices import check_device
    from crystalframer.training.trained_model import write_model

    check_device(arguments.device)
    chosen = {"data.dataset": arguments.dataset, "data.task": arguments.task, **parse_set(arguments.settings)}
    name = f"{arguments.dataset}-{arguments.task}-{Path(arguments.model).name}"
    folder = (arguments.out or default_runs() / "finetune" / name).absolute()
    with one_model(arguments.model, arguments.tracking_uri) as file:
        predictor = load_predictor(file)
        data = load_task(build_trial({key: value for key, value in chosen.items() if key.startswith("data.")}).data)
        candidates = baselines(predictor, data)
        source = predictor.members[0]
        start = folder / "start.pt"
        if not start.exists():
            write_model(start, source)
    settings = {**inherited(source.trial, len(data.rows["train"])), **chosen}
    ways: list[tuple[str, dict[str, Any]]] = [("fine-tuned", {"train.start_from": str(start)})]
    ways += [("from scratch", {})] if arguments.from_scratch else []
    for way, own in ways:
        trials = [build_trial({**settings, **own, "train.seed": seed}) for seed in range(arguments.seeds)]
        folders = [folder / f"{way.replace(' ', '-')}-seed{trial.train.seed}" for trial in trials]
        for trial, place in zip(trials, folders, strict=True):
            if (code := _train(trial, data, place, arguments)) != 0:
                return code
        candidates += _measured(way, folders, data)
    print(table_of(candidates, data.unit))
    names = " ".join(str(folder / f"fine-tuned-seed{seed}") for seed in range(arguments.seeds))
    print(f"with intervals and a name: crystalframer pack NAME {names}")
    return 0


def _train(trial: "TrialConfig", data: "TaskData", folder: Path, arguments: argparse.Namespace) -> int:
    """Train or resume in a folder; return the exit code."""
    from crystalframer.runs.console import on_console
    from crystalframer.runs.run_directory import RunDirectory, SupersededError
    from crystalframer.runs.single import SingleRun, check_single, train_single
    from crystalframer.training.launch import launch
    from crystalframer.training.optimizer import TrainingDivergedError

    directory = RunDirectory(folder)
    check_single(trial, directory, data)
    if directory.result() is not None:
        return 0
    one = SingleRun(settings=trial.to_dict(), directory=folder, threads=arguments.threads)
    with on_console() as show:
        try:
            return launch(train_single, (one,), 1, arguments.device, show)
        except (TrainingDivergedError, SupersededError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def _measured(way: str, folders: list[Path], data: "TaskData") -> list[Any]:
    """Return the candidates of finished trainings: each seed, and their mean where there are several."""
    from crystalframer.prediction.loading import load_predictor
    from crystalframer.pretrained.baselines import measured
    from crystalframer.runs.run_directory import RunDirectory

    seconds = [sum(epoch.values["seconds_per_epoch"] for epoch in RunDirectory(folder).records()) for folder in folders]
    found = [
        measured(f"{way}, seed {seed}", load_predictor(folder), data, took)
        for seed, (folder, took) in enumerate(zip(folders, seconds, strict=True))
    ]
    if len(folders) > 1:
        found.append(measured(f"{way}, mean of {len(folders)}", load_predictor(*folders), data, sum(seconds)))
    return found
