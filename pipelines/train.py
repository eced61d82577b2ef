"""Train one model: one data set, one target, one frame type, one seed. See ``python pipelines/train.py --help``."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.command_line import EXIT_INTERRUPTED, reports_user_errors
from crystalframer.config import FRAMES, TRAIN_PRESETS, TrialConfig, build_trial
from crystalframer.errors import UserError

if TYPE_CHECKING:
    from types import FrameType

    from crystalframer.training.metrics import EpochResult
    from crystalframer.training.trainer import Trainer

SAVE_SECONDS = 30.0
"""Time between checkpoints; an epoch that takes longer is saved when it ends."""

EPILOG = """\
examples:
  a first look, about a minute (20 epochs on 500 crystals of the embedded sample):
    python pipelines/train.py --set data.train_size=500 --set train.epochs=20 --set train.batch_size=32 \\
        --set train.average_epochs=5 --set model.cutoff=6 --out runs/single/first

  the published training on JARVIS, formation energy, with max frames:
    python pipelines/train.py --preset jarvis --dataset jarvis --task formation_energy --frame max

  the baseline without frames, the lightweight angular encoding, another seed:
    python pipelines/train.py --frame none --set train.seed=1
    python pipelines/train.py --set model.preset=lightweight

Ctrl-C stops and saves; the same command goes on where it stopped and ends with the same numbers as a training that
never stopped (on the same machine with the same --threads). OUT holds checkpoint.pt, config.yaml and train.log.
"""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit code."""
    arguments = _parser().parse_args(argv)
    trial = build_trial(_overrides(arguments))
    out = arguments.out or Path("runs/single") / _default_name(trial)

    import torch

    from crystalframer.data.registry import load_task
    from crystalframer.training.optimizer import TrainingDivergedError
    from crystalframer.training.trainer import Trainer

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    trainer = Trainer(trial, load_task(trial.data), device=arguments.device)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    _write_config(trial, out / "config.yaml")
    _say(trainer, f"{trainer.num_parameters:,} parameters, {trainer.model.kernel_name} attention, {out}")
    try:
        finished = _train(trainer, checkpoint, out / "train.log")
    except TrainingDivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not finished:
        print(f"stopped and saved in {checkpoint}; run the same command again to go on")
        return EXIT_INTERRUPTED
    test, unit = trainer.evaluate("test"), trainer.data.unit
    print(
        f"test MAE {test.mae:.4g} {unit}, RMSE {test.rmse:.4g} {unit} (predicting the training mean: MAE "
        f"{test.baseline_mae:.4g} {unit}); checkpoint: {checkpoint}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python pipelines/train.py",
        description="Train one model and report its test error.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", help=f"published training lengths: {', '.join(TRAIN_PRESETS)}")
    parser.add_argument("--dataset", help="prepared data set (default: sample, which comes with the package)")
    parser.add_argument("--task", help="target property (default: formation_energy)")
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
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    return parser


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the dotted settings of the command line; --set comes last."""
    named = {
        "train.preset": arguments.preset,
        "data.dataset": arguments.dataset,
        "data.task": arguments.task,
        "model.frame": arguments.frame,
    }
    overrides = {key: value for key, value in named.items() if value is not None}
    for text in arguments.settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set: got {text!r}, expected KEY=VALUE such as train.epochs=20")
        overrides[key.strip()] = _parse(value.strip())
    return overrides


def _parse(text: str) -> Any:
    """Read a number, true, false or null; everything else is text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _default_name(trial: TrialConfig) -> str:
    parts = (trial.data.dataset, trial.data.task, trial.model.frame, f"seed{trial.train.seed}", trial.fingerprint())
    return "-".join(parts)


def _write_config(trial: TrialConfig, path: Path) -> None:
    import yaml

    path.write_text(yaml.safe_dump(trial.to_dict(), sort_keys=False), encoding="utf-8")


def _say(trainer: "Trainer", text: str) -> None:
    done = trainer.progress.epoch
    print(f"going on after epoch {done}: {text}" if trainer.progress.step else text)


def _train(trainer: "Trainer", checkpoint: Path, log: Path) -> bool:
    """Train to the end or until interrupted, saving on the way; return whether the end was reached."""
    saved = time.monotonic()
    with _stops_on_signals(trainer), _display(trainer) as show, log.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{_line(result, trainer)}\n" for result in trainer.history)
        for result in trainer.fit():
            line = _line(result, trainer)
            print(line, file=lines, flush=True)
            show(line)
            if time.monotonic() - saved > SAVE_SECONDS:
                trainer.save(checkpoint)
                saved = time.monotonic()
        trainer.save(checkpoint)
    return trainer.progress.epoch == trainer.trial.train.epochs


def _line(result: "EpochResult", trainer: "Trainer") -> str:
    unit = trainer.data.unit
    return (
        f"epoch {result.epoch:>4}/{trainer.trial.train.epochs}  step {result.step}  train {result.train_mae:.4g} {unit}"
        f"  val {result.val_mae:.4g} {unit}{' (averaged weights)' if result.averaged else ''}"
        f"  rate {result.learning_rate:.3g}  {result.seconds:.2f} s"
    )


@contextmanager
def _stops_on_signals(trainer: "Trainer") -> Iterator[None]:
    """Let the first Ctrl-C or termination request stop after the step under way, and a second one at once."""
    previous: dict[int, Any] = {}

    def stop(number: int, _frame: "FrameType | None") -> None:
        trainer.stop()
        signal.signal(number, previous[number])

    previous.update({number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)})
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _display(trainer: "Trainer") -> Iterator[Any]:
    """Yield a function that shows an epoch's line: a live bar on a terminal, plain lines elsewhere."""
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
