"""Train one model: one data set, one target, one frame type, one seed. See ``python pipelines/train.py --help``."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.command_line import EXIT_INTERRUPTED, on_stop_signals, reports_user_errors
from crystalframer.config import FRAMES, TRAIN_PRESETS, TrialConfig, build_trial, trial_from_dict
from crystalframer.errors import UserError
from crystalframer.yaml_reading import parse_set

if TYPE_CHECKING:
    from types import FrameType

    from crystalframer.training.metrics import EpochResult
    from crystalframer.training.processes import Post, Processes
    from crystalframer.training.trainer import Trainer

SAVE_SECONDS = 30.0
"""Time between checkpoints, within epochs too: the most work that a power cut can cost."""

Say = Callable[[str], None]

EPILOG = """\
examples:
  a first look, about a minute (20 epochs on 500 crystals of the embedded sample):
    python pipelines/train.py --set data.train_size=500 --set train.epochs=20 --set train.batch_size=32 \\
        --set train.average_epochs=5 --set model.cutoff=6 --out runs/single/first

  the published training on JARVIS, formation energy, with max frames (the preset's data set is its own):
    python pipelines/train.py --preset jarvis --task formation_energy --frame max

  the baseline without frames, the lightweight angular encoding, another seed:
    python pipelines/train.py --frame none --set train.seed=1
    python pipelines/train.py --set model.preset=lightweight

  two targets at once; starting from a trained model with its first two blocks as they are; two processes:
    python pipelines/train.py --task formation_energy,e_hull
    python pipelines/train.py --task bandgap --set train.start_from=OUT/checkpoint.pt --set train.frozen_blocks=2
    python pipelines/train.py --processes 2      (on the hosts of a Ray cluster: --ray --processes 8)

Ctrl-C stops and saves; the same command goes on where it stopped and ends with the same numbers as a training that
never stopped (on the same machine with the same --threads and --processes). OUT holds checkpoint.pt, config.yaml and
train.log. docs/training.md says more.
"""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit code."""
    arguments = _parser().parse_args(argv)
    trial = build_trial(_overrides(arguments))
    out = arguments.out or Path("runs/single") / _default_name(trial)

    from crystalframer.training.optimizer import TrainingDivergedError
    from crystalframer.training.processes import ALONE, LostProcessError

    settings = (trial.to_dict(), out.absolute(), _threads(arguments), arguments.save_seconds)
    try:
        if arguments.ray:
            from crystalframer.orchestration.cluster.distributed import launch_on_ray

            return launch_on_ray(
                train,
                settings,
                arguments.processes,
                device=arguments.device,
                threads=settings[2] or 1,
                out=settings[1],
                say=lambda line: print(line, flush=True),
            )
        if arguments.processes > 1:
            from crystalframer.training.launch import launch

            return launch(train, settings, arguments.processes, arguments.device)
        return train(ALONE, arguments.device, *settings)
    except (TrainingDivergedError, LostProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def train(
    processes: "Processes",
    device: str,
    settings: dict[str, Any],
    out: Path,
    threads: int | None,
    save_seconds: float,
    post: "Post | None" = None,
) -> int:
    """Train in this process, alone or as one of several, of which the first speaks and saves; return the exit code.

    Without a `post`, lines are printed and signals stop the training.
    """
    import torch

    from crystalframer.data.registry import load_task
    from crystalframer.training.trainer import Trainer

    if threads is not None:
        torch.set_num_threads(threads)
    trial = trial_from_dict(settings)
    trainer = Trainer(trial, load_task(trial.data), device=device, processes=processes)
    checkpoint = out / "checkpoint.pt"
    if processes.from_first(checkpoint.exists):
        trainer.restore(checkpoint)
    trainer.prepare()
    say: Say = print if post is None else post.say
    if processes.is_first:
        out.mkdir(parents=True, exist_ok=True)
        _write_config(trial, out / "config.yaml")
        together = f", {processes.size} processes" if processes.size > 1 else ""
        text = f"{trainer.num_parameters:,} parameters, {trainer.model.kernel_name} attention{together}, {out}"
        say(f"going on after epoch {trainer.progress.epoch}: {text}" if trainer.progress.step else text)
    saver = _Saver(trainer, checkpoint, save_seconds, post)
    with _stops_on_signals(trainer) if post is None else nullcontext():
        if processes.is_first:
            _train(trainer, saver, out / "train.log", post)
        else:
            for _ in trainer.fit(after_step=saver.after_step):
                pass
    if trainer.progress.epoch < trial.train.epochs:
        if processes.is_first:
            say(f"stopped and saved in {checkpoint}; run the same command again to go on")
        return EXIT_INTERRUPTED
    _conclude(trainer, checkpoint, say)
    return 0


class _Saver:
    """Saves a training when it is due, in the first process, and lets it stop when the post says so."""

    def __init__(self, trainer: "Trainer", path: Path, seconds: float, post: "Post | None") -> None:
        self.path = path
        self._trainer = trainer
        self._seconds = seconds
        self._post = post
        self._saved = time.monotonic()

    def after_step(self, _loss: float) -> None:
        """Do what is due between two steps."""
        if self._post is not None and self._post.stopping():
            self._trainer.stop()
        if self._trainer.processes.is_first and time.monotonic() - self._saved > self._seconds:
            self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        self._trainer.save(self.path)
        self._saved = time.monotonic()


def _conclude(trainer: "Trainer", checkpoint: Path, say: Say) -> None:
    """Evaluate on the test set, write the model's card, and say what came out."""
    from crystalframer.prediction.card import write_card

    test = trainer.evaluate("test")
    if not trainer.processes.is_first:
        return
    write_card(checkpoint, trainer.data, test.by_task)
    for errors in test.by_task:
        name = f"{errors.task}: " if len(test.by_task) > 1 else ""
        where = f"; checkpoint: {checkpoint}" if errors is test.by_task[-1] else ""
        say(
            f"{name}test MAE {errors.mae:.4g} {errors.unit}, RMSE {errors.rmse:.4g} {errors.unit} (predicting the "
            f"training mean: MAE {errors.baseline_mae:.4g} {errors.unit}){where}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python pipelines/train.py",
        description="Train one model and report its test error.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", help=f"published training of a data set: {', '.join(TRAIN_PRESETS)}")
    parser.add_argument("--dataset", help="prepared data set (default: sample, which comes with the package)")
    parser.add_argument("--task", help="target property, or several joined by commas (default: formation_energy)")
    parser.add_argument("--frame", help=f"frame type: {', '.join(FRAMES)} (default: max)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="any other setting, e.g. train.epochs=20; crystalframer/config.py explains them all; may be repeated",
    )
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/single/NAME from the settings)")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cpu or cuda (default: cpu)")
    parser.add_argument("--processes", type=int, default=1, help="processes that train together (default: 1)")
    parser.add_argument(
        "--ray", action="store_true", help="start them on the Ray cluster that RAY_ADDRESS names, else a Ray of our own"
    )
    parser.add_argument(
        "--threads", type=int, help="threads of torch per process (default: its own choice, or a share)"
    )
    parser.add_argument(
        "--save-seconds", type=float, default=SAVE_SECONDS, help="time between checkpoints (default: %(default)g)"
    )
    return parser


def _threads(arguments: argparse.Namespace) -> int | None:
    """Return the threads of each process: several share the cores."""
    if arguments.processes < 1:
        raise UserError(f"--processes: got {arguments.processes}, expected at least 1")
    if arguments.threads is None and arguments.processes > 1:
        return max(1, (os.cpu_count() or 1) // arguments.processes)
    threads: int | None = arguments.threads
    return threads


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the dotted settings of the command line; --set comes last."""
    named = {
        "train.preset": arguments.preset,
        "data.dataset": arguments.dataset,
        "data.task": arguments.task,
        "model.frame": arguments.frame,
    }
    overrides = {key: value for key, value in named.items() if value is not None}
    overrides |= parse_set(arguments.settings)
    if (preset := overrides.get("train.preset")) in TRAIN_PRESETS:
        overrides.setdefault("data.dataset", preset)
    return overrides


def _default_name(trial: TrialConfig) -> str:
    parts = (
        trial.data.dataset,
        trial.data.task.replace(",", "+"),
        trial.model.frame,
        f"seed{trial.train.seed}",
        trial.fingerprint(),
    )
    return "-".join(parts)


def _write_config(trial: TrialConfig, path: Path) -> None:
    import yaml

    path.write_text(yaml.safe_dump(trial.to_dict(), sort_keys=False), encoding="utf-8")


def _train(trainer: "Trainer", saver: _Saver, log: Path, post: "Post | None") -> None:
    """Train to the end or until told to stop, in the process that speaks and saves."""
    with _display(trainer, post) as show, log.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{_line(result, trainer)}\n" for result in trainer.history)
        for result in trainer.fit(after_step=saver.after_step):
            line = _line(result, trainer)
            print(line, file=lines, flush=True)
            show(line)
        saver.save()


def _line(result: "EpochResult", trainer: "Trainer") -> str:
    unit = trainer.data.unit
    tasks = "".join(
        f"  {name} {result.val_mae_by_task[name]:.4g} {own}"
        for name, own in zip(trainer.data.tasks, trainer.data.units, strict=True)
        if result.val_mae_by_task
    )
    return (
        f"epoch {result.epoch:>4}/{trainer.trial.train.epochs}  step {result.step}  train {result.train_mae:.4g} {unit}"
        f"  val {result.val_mae:.4g} {unit}{tasks}{' (averaged weights)' if result.averaged else ''}"
        f"  rate {result.learning_rate:.3g}  {result.seconds:.2f} s"
    )


@contextmanager
def _stops_on_signals(trainer: "Trainer") -> Iterator[None]:
    """Let the first Ctrl-C or termination request stop after the step under way, and a second one at once."""

    def stop(number: int, _frame: "FrameType | None") -> None:
        trainer.stop()
        signal.signal(number, former[number])

    with on_stop_signals(stop) as former:
        yield


@contextmanager
def _display(trainer: "Trainer", post: "Post | None") -> Iterator[Any]:
    """Yield a function that shows an epoch's line: a live bar on a terminal, plain lines elsewhere."""
    if post is not None:
        yield post.say
        return
    if not sys.stdout.isatty():
        yield lambda line: print(line, flush=True)
        return
    from rich import progress as rich
    from rich.text import Text

    class Batches(rich.ProgressColumn):
        """Batches done of the epoch under way."""

        def render(self, task: rich.Task) -> Text:
            return Text(f"batch {trainer.progress.position}/{trainer.steps_per_epoch}")

    columns = (rich.BarColumn(), rich.MofNCompleteColumn(), Batches(), rich.TimeRemainingColumn())
    with rich.Progress("epoch", *columns, "{task.description}") as bar:
        task = bar.add_task("", total=trainer.trial.train.epochs, completed=trainer.progress.epoch)

        def show(line: str) -> None:
            bar.update(task, completed=trainer.progress.epoch, description=line[line.index("train") :])

        yield show


if __name__ == "__main__":
    sys.exit(main())
