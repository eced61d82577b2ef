"""Sweeps as a user runs them: Ray, an MLflow server on SQLite, kills, resuming."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from crystalframer.data.registry import load_task
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.server import database_uri
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import TrialJob, run_trial
from crystalframer.training.trainer import Trainer
from tests.orchestration.conftest import GRID, PROSE, TINY, WriteSweep
from tests.orchestration.processes import all_gone, command, descendants
from tests.orchestration.tracking.test_tracking import read_mlflow
from tests.runs.memory_tracker import MemoryRun, MemoryTracker, repeatable

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]
Recorded = dict[str, dict[tuple[str, int], float]]
PATIENCE = 240.0
"""Seconds that a driver may take on a busy machine."""


def finish(driver: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = driver.communicate(timeout=PATIENCE)
    return driver.returncode, output


def wait_for(what: Callable[[], bool], driver: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def curves(runs: Path, uri: str | None = None) -> Recorded:
    """Every metric of every current run but the times; a run, or a step of a metric, recorded twice fails."""
    uri = uri or database_uri(runs)
    experiment = connect(uri).get_experiment_by_name("tiny")
    assert experiment is not None
    found = {}
    for key, run in read_mlflow(uri, experiment.experiment_id, artifacts=False).items():
        if run.tags["current"] == "true":
            assert run.status == "FINISHED"
            found[key] = repeatable(run.metrics)
    return found


def written(runs: Path) -> Recorded:
    """The same from the run directories."""
    found = {}
    for path in (runs / "tiny").glob("*seed*"):
        if (result := RunDirectory(path).result()) is not None:
            records = RunDirectory(path).records()
            found[path.name] = {
                (name, record.step): value for record in records for name, value in record.values.items()
            }
            found[path.name] |= {(name, result["final"]["step"]): v for name, v in result["final"]["values"].items()}
            found[path.name] = repeatable(found[path.name])
    return found


def epochs_written(runs: Path) -> int:
    return sum(len(RunDirectory(path).records()) for path in (runs / "tiny").glob("*seed*"))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """What the sweep's trials come to one after another, never interrupted, in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reference")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**PROSE, "base": TINY, "grid": GRID}))
    runs: dict[str, MemoryRun] = {}
    for trial in load_sweep(folder / "tiny.yaml").trials():
        data, directory = load_task(trial.config.data), RunDirectory(folder / trial.name)
        list(run_trial(TrialJob(trial, directory), data, MemoryTracker(runs), Trainer))
    torch.set_num_threads(threads)
    return {name: repeatable(run.metrics) for name, run in runs.items()}


def test_a_sweep_from_its_file_to_its_table(
    write_sweep: WriteSweep, start_driver: Start, tmp_path: Path, reference: Recorded
) -> None:
    sweep, older = write_sweep(), tmp_path / "output" / "tiny" / "learning_curves_sample_bandgap.png"
    older.parent.mkdir(parents=True)
    older.write_bytes(b"of what the sweep's file asked for before")
    code, output = finish(start_driver(sweep))
    assert code == 0, output
    recorded = curves(tmp_path / "runs")
    assert sorted(recorded) == sorted(trial.name for trial in load_sweep(sweep).trials())
    assert {len(run) for run in recorded.values()} == {60 * 6 + 4}
    assert recorded == written(tmp_path / "runs") == reference
    lines = output.splitlines()
    assert lines[0] == "tiny: 4 trials, 0 of them done"
    assert any(line.startswith("MLflow at http://127.0.0.1:") for line in lines)
    assert lines[-1].startswith("     or: mlflow ui --backend-store-uri sqlite:///")
    assert any(line.startswith("written: ") and "ablation_table" in line for line in lines)
    assert list((tmp_path / "output").rglob("ablation_table.md"))
    assert not [line for line in lines if "Warning" in line or "ray" in line.lower().split()]

    client = connect(database_uri(tmp_path / "runs"))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (summary,) = client.search_runs([experiment.experiment_id], "tags.kind = 'summary'")
    assert summary.info.run_name == "summary"
    table = (tmp_path / "output" / "tiny" / "ablation_table.md").read_text()
    assert summary.data.tags["mlflow.note.content"] == table
    kept = [path.name for path in (tmp_path / "runs" / "mlartifacts").rglob(f"{summary.info.run_id}/artifacts/*")]
    assert {"ablation_table.md", "ablation_table.csv", "learning_curves_sample_formation_energy.png"} <= set(kept)
    assert older.name not in kept

    lost = client.search_runs([experiment.experiment_id], "tags.current = 'true'")[0]
    client.delete_run(lost.info.run_id)  # MLflow forgets a run: the run directory knows it all
    code, output = finish(start_driver(sweep))  # nothing is left to train
    assert code == 0, output
    assert "4 trials, 4 of them done" in output
    assert "started" not in output
    assert "sample formation_energy: test MAE" in output
    assert curves(tmp_path / "runs") == recorded


def test_kill_9_of_the_driver_at_random_moments(
    write_sweep: WriteSweep, start_driver: Start, tmp_path: Path, reference: Recorded
) -> None:
    sweep, runs, seed = write_sweep(), tmp_path / "runs", random.randrange(10**6)
    moments = random.Random(seed)
    print("moments drawn with seed", seed)
    starting = start_driver(sweep)
    time.sleep(moments.uniform(1.0, 8.0))  # anywhere in the start: half a database, half a Ray
    family = descendants(starting.pid)
    starting.kill()
    for _ in range(2):
        before = epochs_written(runs) if (runs / "tiny").exists() else 0
        driver = start_driver(sweep)
        wait_for(lambda before=before: epochs_written(runs) > before, driver)  # type: ignore[misc]
        time.sleep(moments.uniform(0.0, 1.0))
        family += descendants(driver.pid)
        driver.kill()
    code, output = finish(start_driver(sweep))
    assert code == 0, output
    assert curves(runs) == reference
    assert written(runs) == reference
    assert all_gone(family, seconds=60.0)  # MLflow's server, Ray and its workers


def test_a_killed_worker_ctrl_c_under_tee_another_seed_other_settings(
    write_sweep: WriteSweep,
    start_driver: Start,
    tmp_path: Path,
    reference: Recorded,
    mlflow_runs: tuple[Path, str],
) -> None:
    sweep, runs, uri = write_sweep(), tmp_path / "runs", mlflow_runs[1]
    log = tmp_path / "log"  # of `crystalframer sweep … | tee log`
    tee = subprocess.Popen(["tee", log], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0)
    assert tee.stdin is not None
    driver = start_driver(sweep, "--tracking-uri", uri, stdout=tee.stdin, process_group=tee.pid)
    tee.stdin.close()
    wait_for(lambda: (runs / "tiny").exists() and epochs_written(runs) > 5, driver)
    kill_a_worker(driver.pid)
    wait_for(lambda: len(written(runs)) >= 1, driver)
    os.killpg(tee.pid, signal.SIGINT)  # as a terminal does: nobody reads what the driver still says
    assert tee.wait(PATIENCE) == -signal.SIGINT
    assert driver.wait(PATIENCE) == 128 + signal.SIGINT, log.read_text()
    assert "its worker process died; it will resume from its last checkpoint" in log.read_text()
    report = (runs / "tiny" / "report.md").read_text()
    interrupted = dict(re.findall(r"`(.*)`: interrupted after epoch (\d+) of", report))
    assert interrupted
    # one that waited for another worker, or whose worker was still starting, may be at the beginning
    assert all(RunDirectory(runs / "tiny" / name).checkpoint.exists() for name, at in interrupted.items() if int(at))
    client = connect(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    assert "RUNNING" not in {run.info.status for run in client.search_runs([experiment.experiment_id])}

    finished = {path: path.stat().st_mtime_ns for path in runs.rglob("done.json")}
    assert finished
    sweep = write_sweep(grid={"model.frame": ["none", "max"], "train.seed": [0, 1, 2]})
    code, output = finish(start_driver(sweep, "--tracking-uri", uri))
    assert code == 0, output
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # kept, not run again
    recorded = curves(runs, uri)
    assert len(recorded) == 6
    assert {name: run for name, run in recorded.items() if name in reference} == reference

    sweep = write_sweep(base={**TINY, "model": {**TINY["model"], "cutoff": 3.5}}, grid={"model.frame": ["none"]})
    code, output = finish(start_driver(sweep, "--tracking-uri", uri))
    assert code == 0, output
    assert len(curves(runs, uri)) == 1  # the old ones are tagged current=false
    assert len([run for run in client.search_runs([experiment.experiment_id]) if "kind" not in run.data.tags]) == 7
    assert not (runs / "mlflow.db").exists()  # the server that was named is the only one


def test_more_than_the_machine_has_is_refused(
    write_sweep: WriteSweep, start_driver: Start, mlflow_runs: tuple[Path, str]
) -> None:
    driver = start_driver(write_sweep(), "--set", "resources.gpus_per_trial=64", "--tracking-uri", mlflow_runs[1])
    code, output = finish(driver)
    assert code == 2
    assert "error: a trial asks for 64 GPUs but no machine here has more than " in output
    assert "--set resources.gpus_per_trial=N" in output.splitlines()[-1]


def kill_a_worker(driver: int) -> None:
    """Kill -9 one of the processes that train."""
    workers = [pid for pid in descendants(driver) if command(pid).startswith("ray::ResourceTrainable")]
    os.kill(workers[0], signal.SIGKILL)
