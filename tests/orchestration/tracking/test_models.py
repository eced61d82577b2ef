"""Models in MLflow: registered, served over HTTP, fetched back; they answer as the Python interface does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crystalframer import cli
from crystalframer.data.registry import load_dataset
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.orchestration.tracking import models
from crystalframer.orchestration.tracking.client import ENVIRONMENT
from crystalframer.prediction import load_predictor
from crystalframer.training.metrics import Target
from crystalframer.training.trained_model import TrainedModel, write_model
from tests.fixtures.models import loud_model
from tests.orchestration.processes import all_gone, descendants
from tests.prediction.conftest import settings

START_SECONDS = 120.0
COLUMN = "formation_energy [eV/atom]"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model file."""
    trial = settings(num_targets=1)
    model = loud_model(trial.model).eval()
    trained = TrainedModel(model, trial, (Target("formation_energy", "eV/atom", -1.0, 0.5),), epoch=1, averaged=False)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    write_model(path, trained)
    return path


@pytest.fixture(scope="module")
def crystals() -> list[Crystal]:
    """Return three crystals of a few atoms."""
    sample = load_dataset("sample")
    return [sample[row] for row in np.flatnonzero(sample.num_atoms <= 6)[[0, 300, 600]]]


def cif_of(crystal: Crystal) -> str:
    return str(crystal.to_structure().to(fmt="cif"))


def post(port: int, content: object) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        data=json.dumps(content).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture
def served(model_file: Path, tmp_path: Path) -> Iterator[int]:
    """Save the model, serve it as a person would, and return the port; the server's whole family ends with the test."""
    assert cli.main(["register", str(model_file), "--folder", str(tmp_path / "pyfunc")]) == 0
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "pyfunc")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1", "PATH": _path()}
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    family: list[int] = []
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            assert process.poll() is None, (tmp_path / "serve.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
            time.sleep(0.2)
        family = [process.pid, *descendants(process.pid)]
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert all_gone(family)


def _path() -> str:
    """Return a search path on which the server finds its own Python's programs."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


@pytest.mark.slow
def test_a_served_model_answers_as_the_python_interface(served: int, model_file: Path, crystals: list[Crystal]) -> None:
    texts = [cif_of(crystal) for crystal in crystals]
    texts[1] = json.dumps(crystals[1].to_structure().as_dict())
    records = [{"structure": text} for text in (*texts, "no structure at all", None)]
    answered = post(served, {"dataframe_records": records})["predictions"]
    expected = load_predictor(model_file).predict(crystals).values[:, 0]
    assert np.allclose([row[COLUMN] for row in answered[:3]], expected, atol=2e-4)
    assert [row["id"] for row in answered] == ["0", "1", "2", "3", "4"]
    assert [row["error"] for row in answered[:3]] == ["", "", ""]
    assert [row[COLUMN] for row in answered[3:]] == [None, None]
    assert all(row["error"] for row in answered[3:])
    again = post(served, {"dataframe_records": [{"structure": None}, {"structure": models.EXAMPLE, "id": None}]})
    assert [row["error"] == "" for row in again["predictions"]] == [False, True]
    assert again["predictions"][1]["id"] == "1"
    named = post(served, {"dataframe_records": [{"structure": texts[0], "id": "mine"}]})["predictions"][0]
    assert (named["id"], named["error"]) == ("mine", "")
    assert named[COLUMN] == pytest.approx(answered[0][COLUMN], abs=1e-5)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(served, {"dataframe_records": [{"text": "x"}]})


def test_a_registered_model_is_fetched_back(
    mlflow_runs: tuple[Path, str], model_file: Path, crystals: list[Crystal], capsys: pytest.CaptureFixture[str]
) -> None:
    _, uri = mlflow_runs
    assert cli.main(["register", str(model_file), "--name", "energy", "--tracking-uri", uri]) == 0
    assert "models:/energy/1" in capsys.readouterr().out
    both = models.register_model([model_file, model_file], "energy", uri)
    assert both == "models:/energy/2"
    expected = load_predictor(model_file).predict(crystals).values
    first = models.load_registered("models:/energy/1", tracking_uri=uri)
    assert np.array_equal(first.predict(crystals).values, expected)
    second = models.load_registered(both, tracking_uri=uri).predict(crystals)
    assert second.spread is not None
    assert not second.spread.any()

    import mlflow

    with models._tracking(uri):
        info = mlflow.models.get_model_info(both)
    assert info.signature is not None
    assert info.signature.inputs.required_input_names() == ["structure"]
    assert COLUMN in info.signature.outputs.input_names()
    assert info.saved_input_example_info is not None


def test_a_model_with_a_name_is_registered_with_its_intervals(tmp_path: Path, crystals: list[Crystal]) -> None:
    assert cli.main(["register", "jarvis-mbj-gap", "--folder", str(tmp_path / "gap")]) == 0
    import mlflow

    info = mlflow.models.get_model_info(str(tmp_path / "gap"))
    assert info.signature is not None
    assert "bandgap_mbj_lower [eV]" in info.signature.outputs.input_names()
    rows = pd.DataFrame({"structure": [cif_of(crystal) for crystal in crystals]})
    answered = mlflow.pyfunc.load_model(str(tmp_path / "gap")).predict(rows)
    assert (answered["bandgap_mbj_lower [eV]"] < answered["bandgap_mbj_upper [eV]"]).all()


def test_a_trials_run_is_a_model(
    mlflow_runs: tuple[Path, str], model_file: Path, crystals: list[Crystal], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, uri = mlflow_runs
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("trials_as_models")).info.run_id
    client.log_artifact(run, str(model_file), "model")
    client.log_artifact(run, str(model_file), "model/snapshots")  # which are not the model
    path = tmp_path / "a.cif"
    path.write_text(cif_of(crystals[0]))
    assert cli.main(["predict", f"runs:/{run}", str(path), "--tracking-uri", uri]) == 0
    value = float(capsys.readouterr().out.splitlines()[1].split(",")[2])
    assert value == pytest.approx(load_predictor(model_file).predict(crystals[0]).values[0, 0], abs=2e-4)
    for wrong in ("runs:/0123456789abcdef0123456789abcdef", "models:/nobody/1"):
        assert cli.main(["predict", wrong, str(path), "--tracking-uri", uri]) == 2
        problem = capsys.readouterr().err
        assert problem.startswith("error: MLflow cannot find or take")
        assert problem.count("\n") == 1
    assert "MLFLOW_TRACKING_URI" not in os.environ, "what is recorded next would go there"


def test_a_folder_that_is_there_is_left_alone(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="is there already"):
        models.save_pyfunc([model_file], tmp_path)
