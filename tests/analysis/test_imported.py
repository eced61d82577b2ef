"""Recording results in MLflow whose server goes away half-way: what counts is whole, and it resumes."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import exported
from analysis.results import read_sweep
from crystalframer.orchestration.tracking.server import LocalMlflowServer
from tests.orchestration.processes import all_gone, descendants

pytestmark = pytest.mark.slow
TRIALS = 6


def finished(database: Path) -> int:
    """Return how many MLflow runs are finished."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'").fetchone()[0])


def test_a_server_that_goes_away_half_way(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "so that it is restored")
    content = exported.read(root / "results" / "ablation_sample")
    few = replace(content.record, trials=content.record.trials[:TRIALS], expected=TRIALS)
    tested = content.predictions[content.predictions["trial"].isin([trial.run_key for trial in few.trials])]
    exported.write(tmp_path / "results", replace(content, record=few, predictions=tested))
    with LocalMlflowServer(tmp_path / "runs") as server:
        server.wait_until_ready()
        command = [sys.executable, "-m", "crystalframer", "import", str(tmp_path / "results")]
        command += ["--tracking-uri", server.uri]
        run = {"env": {**os.environ, "PYTHONPATH": str(root)}, "text": True, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, **run) as half:  # type: ignore[call-overload]
            deadline = time.monotonic() + 100
            while not 0 < finished(tmp_path / "runs" / "mlflow.db") < TRIALS and time.monotonic() < deadline:
                time.sleep(0.02)
            family = descendants(os.getpid())
            for pid in set(family) - {half.pid}:
                os.kill(pid, signal.SIGKILL)
            assert all_gone(list(set(family) - {half.pid}))
            _, said = half.communicate(timeout=100)
        assert half.returncode == 2
        assert said.splitlines()[-1] == (
            f"error: the MLflow server at {server.uri} went away before all {TRIALS} trials were recorded: when it is "
            "there again, run the same command, which resumes"
        )
        assert "Traceback" not in said
        database = f"sqlite:///{tmp_path}/runs/mlflow.db"
        half_way = read_sweep(database, few.sweep, tmp_path / "runs")
        assert 0 < len(half_way.trials) < TRIALS
        assert half_way.expected == TRIALS
        server.revive()
        server.wait_until_ready()
        done = subprocess.run(command, **run, stdout=subprocess.PIPE, check=True)  # type: ignore[call-overload]
        assert f"{TRIALS} trials recorded" in done.stdout
        theirs = read_sweep(database, few.sweep, tmp_path / "runs")
        assert theirs.complete
    ours = exported.read(tmp_path / "results").results()
    assert not theirs.left_out
    assert {trial.run_key: trial.test_mae for trial in theirs.trials} == {
        trial.run_key: trial.test_mae for trial in ours.trials
    }
