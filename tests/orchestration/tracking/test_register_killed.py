"""A model is registered with an MLflow server that is killed meanwhile: a sentence, and the same command again."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from crystalframer.orchestration.tracking.models import fetch_models
from crystalframer.orchestration.tracking.server import LocalMlflowServer
from crystalframer.prediction.loading import read_model
from tests.orchestration.conftest import ROOT
from tests.orchestration.processes import all_gone, descendants
from tests.orchestration.tracking.test_models import model_file

__all__ = ["model_file"]


def has_begun(runs: Path, moment: str) -> bool:
    """Return whether the server keeps a first row of a table, or a first file."""
    if moment == "files":
        return any(path.is_file() for path in (runs / "mlartifacts").rglob("*"))
    with contextlib.closing(sqlite3.connect(f"file:{runs / 'mlflow.db'}?mode=ro", uri=True)) as connection:
        return bool(connection.execute(f"SELECT count(*) FROM {moment}").fetchone()[0])


def kill_family(pid: int) -> None:
    """Kill -9 a process and all that it started, the youngest last, so that none starts another."""
    family = [pid, *descendants(pid)]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    assert all_gone(family[1:])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["runs", "files", "model_versions"])
def test_register_with_a_server_that_is_killed(moment: str, model_file: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "crystalframer", "register", str(model_file), "--name", "energies"]
    with LocalMlflowServer(runs) as server:
        server.wait_until_ready()
        command += ["--tracking-uri", server.uri]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # the server signed in
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=tmp_path,
        ) as first:  # fmt: skip
            while first.poll() is None and not has_begun(runs, moment):
                time.sleep(0.005)
            kill_family(server._process.pid)
            _, problem = first.communicate(timeout=300)
        if moment != "model_versions":  # the answer may have been on its way
            assert first.returncode == 2, problem
        (sentence, *others) = [line for line in problem.splitlines() if line.startswith("error: ")] or [""]
        assert not others
        assert "Traceback" not in problem
        assert bool(first.returncode) == (
            f"{server.uri} went away before it confirmed a version of energies" in sentence
        )
        server.revive()
        server.wait_until_ready()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        versions = MlflowClient(server.uri).search_model_versions("name='energies'")
        assert {int(version.version) for version in versions} == set(range(1, len(versions) + 1))
        assert len(versions) == (2 if moment == "model_versions" else 1)
        for version in versions:
            address_of_version = f"models:/energies/{version.version}"
            (file,) = fetch_models(address_of_version, server.uri, tmp_path / version.version)
            read_model(file)
