"""Models in MLflow: registered as pyfunc models that answer structures, fetched back to predict with.

A registered model answers a table with a column ``structure`` (a CIF, a POSCAR or a pymatgen dictionary in JSON, as
text) and optionally ``id``, with the columns that `Predictions.to_dataframe` has. MLflow loads it through
`_load_pyfunc`; nothing of it is pickled.
"""

import errno
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer import __version__
from crystalframer.atomic_files import new_folder
from crystalframer.environment import variable, without_secret
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking.addresses import tracking_address
from crystalframer.orchestration.tracking.client import be_quiet, check_server, is_away

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

    from crystalframer.prediction import Predictor
    from crystalframer.prediction.served import RowPredictor

EXPERIMENT = "registered_models"
"""MLflow experiment of the runs that registering makes."""
EXAMPLE = """\
data_NaCl
_cell_length_a 3.99
_cell_length_b 3.99
_cell_length_c 3.99
_cell_angle_alpha 60
_cell_angle_beta 60
_cell_angle_gamma 60
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na Na 0 0 0
Cl Cl 0.5 0.5 0.5
"""
"""Rock salt, the example input of every registered model."""


class PyfuncModel:
    """What MLflow calls; tables in, tables out."""

    def __init__(self, rows: "RowPredictor") -> None:
        """Predict with `rows`."""
        self._rows = rows

    def predict(self, model_input: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """Predict the structures of a table, a row each; what cannot be read or predicted has its reason in ``error``.

        Args:
            model_input: with the column ``structure``, and optionally ``id``.
            params: none are known.
        """
        structures = model_input["structure"].tolist()
        given = model_input["id"].tolist() if "id" in model_input else [None] * len(structures)
        ids = [str(row) if label is None or label != label else str(label) for row, label in enumerate(given)]
        table = self._rows.predict(structures, ids).to_dataframe().drop(columns="source").astype(object)
        return table.where(table.notna(), None)  # JSON has null, but no NaN


def _load_pyfunc(path: str) -> PyfuncModel:
    """Load what `save_pyfunc` saved; MLflow calls this by name with the folder of the model files."""
    import pandas as pd

    from crystalframer.prediction import load_predictor
    from crystalframer.prediction.served import RowPredictor

    model = PyfuncModel(RowPredictor(load_predictor(*sorted(Path(path).glob("*.pt")))))
    model.predict(pd.DataFrame({"structure": [EXAMPLE]}))  # compiles now what the first request would wait for
    return model


def signature_of(predictor: "Predictor") -> "ModelSignature":
    """Return the columns that a model takes and gives."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = predictor.predict_named([]).to_dataframe().columns.drop(["id", "source", "error"])
    inputs = Schema([ColSpec("string", "structure"), ColSpec("string", "id", required=False)])
    numbers = [ColSpec("double", column) for column in columns]
    return ModelSignature(
        inputs=inputs, outputs=Schema([ColSpec("string", "id"), *numbers, ColSpec("string", "error")])
    )


@contextmanager
def pyfunc_arguments(models: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the arguments with which ``mlflow.pyfunc`` saves or logs a model (several: an ensemble).

    Raises:
        UserError: a model cannot be read.
    """
    import pandas as pd

    from crystalframer.prediction.loading import predictor_of, read_model
    from crystalframer.training.trained_model import write_model

    found = [read_model(path) for path in models]
    members = [member for model in found for member in model.members]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "models"
        data.mkdir()
        for number, (path, model) in enumerate(zip(models, found, strict=True)):
            if model.calibration is not None:  # a packed model as it is, with its intervals
                shutil.copyfile(path, data / f"{number:03}.pt")
            else:
                for place, member in enumerate(model.members):
                    write_model(data / f"{number:03}-{place:03}.pt", member)
        yield {
            "loader_module": __name__,
            "data_path": str(data),
            "signature": signature_of(predictor_of(found)),
            "input_example": pd.DataFrame({"structure": [EXAMPLE], "id": ["NaCl"]}),
            "pip_requirements": [f"crystalframer=={__version__}"],
            "metadata": {"targets": {t.name: t.unit for t in members[0].targets}, "origin": members[0].origin},
        }


def save_pyfunc(models: Sequence[Path], folder: Path) -> None:
    """Save models as one MLflow model in a new folder, for ``mlflow models serve -m FOLDER``.

    Raises:
        UserError: a model cannot be read, or the folder is there already.
    """
    mlflow = _mlflow()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"the folder {folder} is there already; give another one")
    with pyfunc_arguments(models) as arguments, _quiet(), new_folder(folder) as unfinished:
        mlflow.pyfunc.save_model(str(unfinished), **arguments)


def register_model(models: Sequence[Path], name: str, tracking_uri: str | None) -> str:
    """Register models (several: an ensemble) as the next version of a name; return its address, models:/NAME/VERSION.

    Args:
        models: checkpoints or model files.
        name: of the registered model; made if it is not there.
        tracking_uri: MLflow's address; None: MLFLOW_TRACKING_URI, or the one of ./runs.

    Raises:
        UserError: a model cannot be read, MLflow refuses, or its server goes away meanwhile.
    """
    mlflow = _mlflow()
    from mlflow.exceptions import MlflowException

    with _tracking(tracking_uri), pyfunc_arguments(models) as arguments, _quiet():
        try:
            mlflow.set_experiment(EXPERIMENT)
            with mlflow.start_run(run_name=name):
                info = mlflow.pyfunc.log_model(name="model", registered_model_name=name, **arguments)
        except (MlflowException, OSError) as error:  # the latter as artifacts are sent
            if isinstance(error, OSError) and not is_away(error):
                raise
            _require_answer(mlflow.get_tracking_uri(), name)
            raise _refused(name, error) from error
        return f"models:/{name}/{info.registered_model_version}"


def fetch_models(model: str, tracking_uri: str | None, folder: Path) -> list[Path]:
    """Fetch the model files of an address in MLflow.

    Args:
        model: ``runs:/ID`` (the checkpoint of a trial), ``runs:/ID/PATH``, ``models:/NAME/VERSION``,
            ``models:/NAME@ALIAS``.
        tracking_uri: MLflow's address; None: MLFLOW_TRACKING_URI, or the one of ./runs.
        folder: where to put them.

    Raises:
        UserError: there is no such model, or MLflow does not answer.
    """
    mlflow = _mlflow()
    from mlflow.exceptions import MlflowException

    run_only = model.startswith("runs:/") and "/" not in model.removeprefix("runs:/").strip("/")
    address = f"{model.rstrip('/')}/model" if run_only else model
    with _tracking(tracking_uri):
        try:
            found = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder)))
        except (MlflowException, OSError) as error:  # of MLflow's own, those without a number say what is not there
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise
            raise _refused(model, error) from error
    files = [found] if found.is_file() else sorted(found.glob("*.pt")) or sorted(found.rglob("*.pt"))
    if not files:
        raise UserError(f"{model} holds no checkpoint or model file (*.pt); give a trial's run or a registered model")
    return files


def load_registered(*models: str, tracking_uri: str | None = None) -> "Predictor":
    """Load a predictor from addresses in MLflow (see `fetch_models`).

    Raises:
        UserError: there is no such model, or MLflow does not answer.
    """
    from crystalframer.prediction import load_predictor

    with tempfile.TemporaryDirectory() as folder:
        files = [
            file
            for number, model in enumerate(models)
            for file in fetch_models(model, tracking_uri, Path(folder) / str(number))
        ]
        return load_predictor(*files)


@contextmanager
def _tracking(tracking_uri: str | None) -> Iterator[None]:
    """Let MLflow use an address within the context; for ./runs, with a server of its own."""
    mlflow = _mlflow()
    with ExitStack() as stack:
        if (uri := tracking_address(tracking_uri)) is None:
            from crystalframer.orchestration.tracking.server import LocalMlflowServer

            server = stack.enter_context(LocalMlflowServer(Path("runs")))
            server.wait_until_ready()
            uri = server.uri
        elif uri.startswith("http"):
            check_server(uri)
        stack.callback(mlflow.set_tracking_uri, variable("MLFLOW_TRACKING_URI"))  # which it sets
        mlflow.set_tracking_uri(uri)
        yield


def _mlflow() -> Any:
    """Import MLflow as every process of ours does, without telemetry."""
    be_quiet()
    import mlflow
    import mlflow.artifacts

    with _quiet():
        import mlflow.pyfunc

    return mlflow


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what MLflow 3.17 warns of in its own code: its type hints, and its use of pandas 3.1."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*type hint is inferred as AnyType")
        warnings.filterwarnings("ignore", message="Operation with range is deprecated")
        yield


def _require_answer(uri: str, name: str) -> None:
    """Check that the server at which a model was to be registered is still there."""
    if not uri.startswith("http"):
        return
    try:
        check_server(uri)
    except UserError as error:
        raise UserError(
            f"the MLflow server at {without_secret(uri)} went away before it confirmed a version of {name}: when it is "
            f"there again, run the same command; of this attempt a run without an end may stay in {EXPERIMENT}"
        ) from error


def _refused(what: str, error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0]
    return UserError(f"MLflow cannot find or take {what}: {reason}; check the name and --tracking-uri")
