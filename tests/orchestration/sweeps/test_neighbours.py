"""A sweep of real processes: a second driver, a driver and a worker that stand still, and a damaged database."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.runs.run_directory import RunDirectory
from tests.orchestration.conftest import WriteSweep
from tests.orchestration.processes import descendants

STILL_SECONDS = 4.0
PATIENCE = 180.0

Start = Callable[..., "subprocess.Popen[str]"]


def wait_for(driver: "subprocess.Popen[str]", happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def stand_still(process: int) -> None:
    os.kill(process, signal.SIGSTOP)
    try:
        time.sleep(STILL_SECONDS)
    finally:
        os.kill(process, signal.SIGCONT)


def worker_of(driver: int, trial: RunDirectory) -> int:
    """Return the process of a driver's family that holds a trial's lock."""
    lock = str(trial.path / "lock")
    for process in descendants(driver):
        for handle in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                if str(handle.readlink()) == lock:
                    return process
    raise AssertionError("nobody holds the lock")


@pytest.mark.slow
def test_neighbours_and_damage_cost_nothing(write_sweep: WriteSweep, start_driver: Start, tmp_path: Path) -> None:
    sweep = write_sweep(grid={"model.frame": ["none"]})
    driver = start_driver(sweep, "--set", "train.epochs=400")
    runs = tmp_path / "runs"

    def trials() -> list[RunDirectory]:
        return [RunDirectory(path.parent) for path in (runs / "tiny").glob("*/config.json")]

    wait_for(driver, lambda: trials() and len(trials()[0].records()) > 2)
    (trial,) = trials()
    second = start_driver(sweep, "--set", "train.epochs=400")
    said = second.communicate(timeout=PATIENCE)[0]
    assert second.returncode == 2
    assert f"is in use by process {driver.pid}; wait for it, or stop it first" in said
    stand_still(driver.pid)
    stand_still(worker_of(driver.pid, trial))
    attempt = (trial.path / "attempt").read_text()
    said = driver.communicate(timeout=PATIENCE)[0]
    assert driver.returncode == 0, said
    assert (trial.path / "attempt").read_text() == attempt, "it was not started again"
    assert [record.step for record in trial.records()] == list(range(1, 401))

    database = runs / "mlflow.db"
    damaged = b"no database " * 1000
    for path in runs.glob("mlflow.db-*"):
        path.unlink()
    database.write_bytes(damaged)
    refused = start_driver(sweep, "--set", "train.epochs=400")
    said = refused.communicate(timeout=PATIENCE)[0]
    assert refused.returncode == 2
    assert said.splitlines()[-1].startswith(f"error: MLflow's database {database} is damaged (file is not a database)")
    assert database.read_bytes() == damaged
    shutil.move(database, tmp_path / "damaged.db")
    again = start_driver(sweep, "--set", "train.epochs=400")
    said = again.communicate(timeout=PATIENCE)[0]
    assert again.returncode == 0, said
    found = MlflowExperiment(f"sqlite:///{database}", "tiny").runs()
    assert len(found) == 1
