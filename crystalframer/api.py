"""What ``import crystalframer as cf`` offers; each name is loaded when it is first used."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.errors import UserError
from crystalframer.pretrained.listing import model_paths, models_table

if TYPE_CHECKING:
    from crystalframer.pretrained.ready import Model
    from crystalframer.pretrained.tuning import FineTuned


def load(model: str | Path, *, device: str = "cpu", tracking_uri: str | None = None) -> "Model":
    """Load a model to predict with.

    Args:
        model: a name that `models` lists, a file or folder of a training, a pattern of these (an ensemble), or the
            address of one recorded in MLflow, ``runs:/ID`` or ``models:/NAME/VERSION``.
        device: where it shall live, e.g. ``cuda``.
        tracking_uri: where MLflow records, if not at ``MLFLOW_TRACKING_URI`` or in ``./runs``.

    Raises:
        UserError: there is no such model (near matches of a name are listed), or it cannot be read.
    """
    from crystalframer.pretrained.ready import model_of
    from crystalframer.training.devices import check_device

    check_device(device)
    with local_models([str(model)], tracking_uri) as files:
        return model_of(files, device)


def models() -> str:
    """Return the list of the models that have a name."""
    return models_table()


def train(
    data: str | Path = "sample",
    table: str | Path | None = None,
    *,
    task: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> "Model":
    """Train a model as `crystalframer train` does, and return it; what is trained already is loaded.

    Args:
        data: a prepared data set by its name, or with `table` a folder or file of structures.
        table: a .csv or .xlsx file with a row a structure; ``report.html`` is then left beside the model, and rows
            without a value are predicted in ``predicted.csv``.
        task: the property to learn; by default formation_energy, or the table's only one.
        settings: any of the settings by their dotted names, such as ``{"model.frame": "max", "train.epochs": 20}``.
        out: folder of the training; by default ``runs/single/NAME``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of torch; by default its own choice.

    Returns:
        The model; ``model.files`` says where it is kept.

    Raises:
        UserError: a name, setting, table or folder is not what it must be; the sentence says what to do.
        TrainingDivergedError: a loss or prediction is not a finite number.
        KeyboardInterrupt: it was stopped, and saved; the same call resumes.
    """
    from crystalframer.data.registry import load_task
    from crystalframer.orchestration.cluster.surroundings import default_runs
    from crystalframer.pretrained.own_table import conclude, prepare_table
    from crystalframer.resolving import build_trial
    from crystalframer.runs.single import default_name, train_here
    from crystalframer.training.devices import check_device

    check_device(device)
    chosen = {**({"data.task": task} if task else {}), **(settings or {})}
    own = None
    if table is not None:
        build_trial(chosen)  # mistakes show before anything is written
        own, crystals = prepare_table(Path(data), Path(table), task)
        chosen = {**own.settings(len(crystals.rows["train"])), **chosen, "data.task": own.data.task}
    trial = build_trial({"data.dataset": str(data), **chosen})
    if own is None:
        crystals = load_task(trial.data)
    folder = Path(out or default_runs() / "single" / (own.name if own else default_name(trial))).absolute()
    train_here(trial, crystals, folder, device=device, threads=threads)
    if own is not None:
        print(f"open {conclude(own, crystals, folder)}")
    return load(folder, device=device)


def finetune(
    model: str | Path,
    data: str,
    *,
    task: str,
    seeds: int = 1,
    from_scratch: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    tracking_uri: str | None = None,
) -> "FineTuned":
    """Train on from a model as `crystalframer finetune` does, beside shallow models that cost seconds.

    Args:
        model: as for `load`.
        data: a prepared data set by its name.
        task: the property to learn.
        seeds: trainings with different seeds.
        from_scratch: train the same model from fresh weights, too.
        settings: differences to the source's settings and to a short training, by their dotted names.
        out: folder of the trainings; by default ``runs/finetune/DATA-TASK-MODEL``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of torch; by default its own choice.
        tracking_uri: where MLflow records, if not at ``MLFLOW_TRACKING_URI`` or in ``./runs``.

    Returns:
        The errors of all of them, and which one to use; ``load(result.folders[0])`` loads a fine-tuned model.

    Raises:
        UserError, TrainingDivergedError, KeyboardInterrupt: as `train`.
    """
    from crystalframer.orchestration.cluster.surroundings import default_runs
    from crystalframer.pretrained.tuning import fine_tune
    from crystalframer.training.devices import check_device

    check_device(device)
    chosen = {"data.dataset": data, "data.task": task, **(settings or {})}
    folder = Path(out or default_runs() / "finetune" / f"{data}-{task}-{Path(model).name}").absolute()
    with one_model(str(model), tracking_uri) as file:
        return fine_tune(file, chosen, folder, seeds=seeds, from_scratch=from_scratch, device=device, threads=threads)


@contextmanager
def one_model(model: str, tracking_uri: str | None) -> Iterator[Path]:
    """Yield the file of one model for the context.

    Raises:
        UserError: there is no such model, or there are several.
    """
    with local_models([model], tracking_uri) as found:
        if len(found) != 1:
            raise UserError(f"{model} names {len(found)} models, expected one")
        yield found[0]


@contextmanager
def local_models(models: Sequence[str], tracking_uri: str | None) -> Iterator[list[Path]]:
    """Yield the files of models: names and paths found, those recorded in MLflow fetched for the context."""
    from crystalframer.prediction.loading import MLFLOW  # it imports torch, which takes seconds

    with tempfile.TemporaryDirectory() as folder:
        found: list[Path] = []
        for number, model in enumerate(models):
            if model.startswith(MLFLOW):
                from crystalframer.orchestration.tracking.models import fetch_models

                found += fetch_models(model, tracking_uri, Path(folder) / str(number))
            else:
                found += model_paths(model)
        yield found
