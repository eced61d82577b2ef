"""Train on from a trained model, beside shallow models on the same split that cost seconds."""

import argparse
import sys
from pathlib import Path

from crystalframer.command_line import outliving_the_screen
from crystalframer.commands.model_argument import add_model
from crystalframer.yaml_reading import parse_set

EPILOG = """\
The architecture is the source's; training is short, and ends and is chosen by the validation error (train.keep=best,
train.patience=15). Beside it stand gradient-boosted trees on the composition, and ridge regression and trees on the
source's embedding: a line below the table says which to use. Ctrl-C stops and saves; the same command resumes.

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
    from crystalframer.api import finetune
    from crystalframer.runs.run_directory import SupersededError
    from crystalframer.training.optimizer import TrainingDivergedError

    try:
        tuned = finetune(
            arguments.model,
            arguments.dataset,
            task=arguments.task,
            seeds=arguments.seeds,
            from_scratch=arguments.from_scratch,
            settings=parse_set(arguments.settings),
            out=arguments.out,
            device=arguments.device,
            threads=arguments.threads,
            tracking_uri=arguments.tracking_uri,
        )
    except (TrainingDivergedError, SupersededError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tuned)
    print(f"with intervals and a name: crystalframer pack NAME {' '.join(map(str, tuned.folders))}")
    return 0
