"""What ``import crystalframer as cf`` offers; each name is loaded when it is first used."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crystalframer.pretrained.listing import model_paths, models_table

if TYPE_CHECKING:
    from crystalframer.pretrained.ready import Model


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
