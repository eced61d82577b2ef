"""Predictors from files: checkpoints, model files, packed models, and folders of these."""

import glob
from collections.abc import Sequence
from pathlib import Path

from crystalframer.config import Ties
from crystalframer.errors import UserError
from crystalframer.prediction.calibration import COVERAGE
from crystalframer.prediction.packed import PackedModel, is_packed, packed_of
from crystalframer.prediction.predictor import Predictor
from crystalframer.training.safe_files import read_archive, whole
from crystalframer.training.trained_model import model_of

MLFLOW = ("runs:/", "models:/")
"""How addresses of models in MLflow begin."""
TOLERANCE = 1e-3
"""Of the prediction for a packed model's example, in standard deviations of its targets: machines round differently."""


def load_predictor(
    *models: str | Path, device: str = "cpu", coverage: float = COVERAGE, ties: Ties | None = None
) -> Predictor:
    """Load a model to predict with, or several as an ensemble.

    A packed model by itself brings its intervals along; together with others it is part of an ensemble without them.

    Args:
        models: each a checkpoint, model file or packed model, a folder that holds ``checkpoint.pt`` (as training writes
            it), or a pattern of these such as ``"runs/mine/max-seed*"``.
        device: where the models shall live.
        coverage: share of true values that intervals shall hold.
        ties: what to do where symmetry leaves a frame open, if not what a model's own setting says.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    found = [read_model(path, device=device, ties=ties) for model in models for path in model_files(model)]
    return predictor_of(found, coverage)


def read_model(path: Path, *, device: str = "cpu", ties: Ties | None = None) -> PackedModel:
    """Read a packed model; any other model is one with a single member and nothing else.

    A packed model's example is checked with its own setting for ties, whatever is asked for.

    Raises:
        UserError: it cannot be read, or does not predict its example.
    """
    content = read_archive(path)
    if is_packed(content):
        packed = packed_of(path, content, device)
        _check_example(path, packed)
    else:
        packed = PackedModel((model_of(path, content, device),))
    for member in packed.members:
        member.model.ties = ties or member.model.ties
    return packed


def predictor_of(models: Sequence[PackedModel], coverage: float = COVERAGE) -> Predictor:
    """Return what predicts with the members of all models; the intervals are those of a model by itself."""
    members = [member for model in models for member in model.members]
    return Predictor(members, calibration=models[0].calibration if len(models) == 1 else None, coverage=coverage)


def _check_example(path: Path, packed: PackedModel) -> None:
    """Check that a packed model predicts here what it predicted where it was packed."""
    if packed.example is None:
        return
    with whole(f"packed model {path}"):
        found = predictor_of([packed]).predict(packed.example.crystal).values[0]
    for target, got, expected in zip(packed.members[0].targets, found, packed.example.predictions, strict=True):
        if not abs(got - expected) <= TOLERANCE * target.std:
            raise UserError(
                f"{path} predicts {got:.6g} {target.unit} for its example {packed.example.crystal.id!r}, expected "
                f"{expected:.6g} {target.unit}: the file or this installation is damaged; install both again"
            )


def model_files(model: str | Path) -> list[Path]:
    """Return the files of models that a text names: a file, a folder with a checkpoint, or a pattern of these.

    Raises:
        UserError: there is none.
    """
    text = str(model)
    if text.startswith(MLFLOW):
        raise UserError(
            f"{text} is an address in MLflow: use crystalframer.orchestration.tracking.models.load_registered there, "
            "or give the path of a checkpoint"
        )
    path = Path(model)
    if path.exists():
        return [_file_of(path)]
    if found := sorted(glob.glob(text)):  # noqa: PTH207 - Path.glob takes no absolute pattern
        return [_file_of(Path(entry)) for entry in found]
    raise UserError(f"there is no model {text}; give a checkpoint, a model file or the folder of a training")


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("model.pt", "checkpoint.pt"):  # the first with intervals, where a training left both
        if (path / name).is_file():
            return path / name
    raise UserError(f"the folder {path} holds no checkpoint.pt; give the folder of one training, or the file itself")
