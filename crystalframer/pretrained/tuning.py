"""Fine-tuning by name: trainings that start from a model, beside shallow models on the same split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.prediction.loading import load_predictor
from crystalframer.pretrained.baselines import Candidate, baselines, best_of, inherited, measured, table_of
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.single import train_here
from crystalframer.runs.tracker import seconds_of
from crystalframer.training.trained_model import write_model

TUNED, SCRATCH = "fine-tuned", "from scratch"
"""Names of the candidates that are kept: a training each."""


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What a fine-tuning came to."""

    candidates: tuple[Candidate, ...]
    """The shallow models first; the trained ones by themselves and, where there are several, their mean."""
    unit: str
    folders: tuple[Path, ...]
    """Of the fine-tuned models, a seed each."""

    @property
    def best(self) -> str:
        """The name of the candidate of smallest validation error: the one to use."""
        return best_of(self.candidates).name

    @property
    def table(self) -> pd.DataFrame:
        """A row for each candidate: validation and test error with its 95 % interval, in the unit, and seconds."""
        return pd.DataFrame(
            {
                "model": [one.name for one in self.candidates],
                f"val MAE [{self.unit}]": [one.val_mae for one in self.candidates],
                f"test MAE [{self.unit}]": [one.test_mae.value for one in self.candidates],
                "low": [one.test_mae.low for one in self.candidates],
                "high": [one.test_mae.high for one in self.candidates],
                "seconds": [one.seconds for one in self.candidates],
            }
        )

    @property
    def _to_keep_it(self) -> str:
        """How to keep the best model where the table alone knows of it; empty where it is kept."""
        if self.best.startswith((TUNED, SCRATCH)):
            return ""
        return "\nto keep and use it: the lines on shallow models that `crystalframer files python.md` copies"

    def __str__(self) -> str:
        """Return the table for a terminal."""
        return table_of(self.candidates, self.unit) + self._to_keep_it

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        html = self.table.to_html(index=False, float_format="{:.4g}".format)
        return f"{html}<p>use: {self.best}, whose validation error is smallest{self._to_keep_it}</p>"


def fine_tune(
    model: Path,
    chosen: Mapping[str, Any],
    folder: Path,
    *,
    seeds: int = 1,
    from_scratch: bool = False,
    device: str = "cpu",
    threads: int | None = None,
) -> FineTuned:
    """Fine-tune a model, or resume; what is finished is left as it is.

    Args:
        model: the source's file; of an ensemble, its first member is tuned.
        chosen: dotted settings: the data set and task, and differences to the source's and to a short training.
        folder: of the trainings, absolute.
        seeds: trainings with different seeds.
        from_scratch: train the same model from fresh weights, too.
        device: where to train.
        threads: of torch.

    Raises:
        UserError: a setting does not suit the data or the source, or there are several tasks.
        TrainingDivergedError, SupersededError, KeyboardInterrupt: as `train_here` does.
    """
    if seeds < 1:
        raise UserError(f"--seeds: got {seeds}, expected at least 1")
    build_trial(chosen)  # mistakes show before shallow models take their seconds
    predictor = load_predictor(model)
    data = load_task(build_trial({key: value for key, value in chosen.items() if key.startswith("data.")}).data)
    candidates = baselines(predictor, data)
    source, start = predictor.members[0], folder / "start.pt"
    if not start.exists():
        write_model(start, source)
    settings = {**inherited(source.trial, len(data.rows["train"])), **chosen}
    ways: list[tuple[str, dict[str, Any]]] = [(TUNED, {"train.start_from": str(start)})]
    ways += [(SCRATCH, {})] if from_scratch else []
    for way, own in ways:
        folders = [folder / f"{way.replace(' ', '-')}-seed{seed}" for seed in range(seeds)]
        for seed, place in enumerate(folders):
            trial = build_trial({**settings, **own, "train.seed": seed})
            train_here(trial, data, place, device=device, threads=threads)
        candidates += _measured(way, folders, data)
    tuned = tuple(folder / f"{TUNED}-seed{seed}" for seed in range(seeds))
    return FineTuned(tuple(candidates), data.unit, tuned)


def _measured(way: str, folders: Sequence[Path], data: TaskData) -> list[Candidate]:
    """Return the candidates of finished trainings: each seed, and their mean where there are several."""
    seconds = [seconds_of(RunDirectory(folder).records()) for folder in folders]
    found = [
        measured(f"{way}, seed {seed}", load_predictor(folder), data, took)
        for seed, (folder, took) in enumerate(zip(folders, seconds, strict=True))
    ]
    if len(folders) > 1:
        found.append(measured(f"{way}, mean of {len(folders)}", load_predictor(*folders), data, sum(seconds)))
    return found
