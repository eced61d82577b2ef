"""The program as it is typed: help, the list of trials, and one sentence for each mistake."""

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalframer.commands.sweep import _analyse
from crystalframer.config import DataConfig
from crystalframer.data.dataset import Task
from crystalframer.data.registry import load_task
from crystalframer.data.store import write_store
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.tracker import StepMetrics
from pipelines.ablate_frames import main
from tests.orchestration.conftest import TINY, WriteSweep
from tests.runs.test_status import RESULT

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Look for prepared data sets in an empty folder."""
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "data"


@pytest.fixture
def refused(write_sweep: WriteSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs a sweep which must be refused, and returns the sentence that says why."""

    def run(*arguments: str, **fields: Any) -> str:
        started = time.monotonic()
        code = main([str(write_sweep(**fields)), "--runs", str(tmp_path / "runs"), *arguments])
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        assert time.monotonic() - started < 60  # MLflow's own client would try for two minutes
        assert not list(tmp_path.rglob("mlflow.db"))  # nothing was started
        return err

    return run


def base(**sections: dict[str, Any]) -> dict[str, Any]:
    return {section: {**values, **sections.get(section, {})} for section, values in TINY.items()}


def test_an_unknown_frame(refused: Refused) -> None:
    assert "unknown model.frame 'maxi' (did you mean 'max'?)" in refused(grid={"model.frame": ["maxi"]})


def test_an_unknown_key_lists_near_matches(refused: Refused) -> None:
    assert "unknown setting in base: 'train.epoch' (did you mean 'train.epochs'" in refused(base={"train.epoch": 1})


def test_an_unknown_key_in_set(refused: Refused) -> None:
    assert "'train.epoch' (did you mean 'train.epochs'" in refused("--set", "train.epoch=1")


def test_a_data_set_that_is_not_prepared_says_how_to_prepare_it(refused: Refused) -> None:
    said = refused(base=base(data={"dataset": "jarvis"}))
    assert "data set 'jarvis' is not prepared" in said
    assert "crystalframer prepare jarvis" in said


def test_an_unknown_task(refused: Refused) -> None:
    assert "has no task 'formation' (did you mean 'formation_energy'" in refused(base=base(data={"task": "formation"}))


def test_targets_that_are_all_missing(refused: Refused, nothing_prepared: Path) -> None:
    sample = load_task(DataConfig()).dataset
    task = sample.tasks["formation_energy"]
    absent = Task(task.name, task.unit, np.full(len(sample), np.nan), task.split)
    dataset = replace(sample, name="jarvis", tasks={"formation_energy": absent}, stored_fingerprint=None)
    write_store(nothing_prepared / "jarvis", dataset, {})
    assert "all without a target (NaN)" in refused(base=base(data={"dataset": "jarvis"}))


def test_more_crystals_than_there_are(refused: Refused) -> None:
    assert "asks for 99999 crystals" in refused(base=base(data={"train_size": 99999}))


def test_a_batch_larger_than_the_training_set(refused: Refused) -> None:
    said = refused(base=base(train={"batch_size": 32}))
    assert "setting 'train.batch_size': got 32, expected at most 16, the size of the training set" in said


def test_an_element_that_the_model_does_not_know(refused: Refused) -> None:
    assert "but the model knows elements 1 to 8" in refused(base=base(model={"num_elements": 8}))


def test_a_tracking_server_that_does_not_answer(refused: Refused) -> None:
    assert "no MLflow server answers at http://127.0.0.1:9;" in refused("--tracking-uri", "http://127.0.0.1:9")


def test_a_sweep_that_another_process_runs(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    with (folder / ".driver.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by process 4711; wait for it, or stop it first" in refused()


def test_a_run_directory_of_other_data(refused: Refused, write_sweep: WriteSweep, tmp_path: Path) -> None:
    trial = load_sweep(write_sweep()).trials()[0]
    folder = tmp_path / "runs" / "tiny" / trial.name
    folder.mkdir(parents=True)
    identity = {"fingerprint": trial.config.fingerprint(), "dataset_fingerprint": "0" * 64, "settings": {}}
    (folder / "config.json").write_text(json.dumps(identity))
    said = refused()
    assert "was trained on other data (fingerprint 000000000000, now " in said
    assert "--runs" in said


def test_a_file_that_is_not_there(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no/such/sweep.yaml"]) == 2
    assert capsys.readouterr().err == "error: no sweep file 'no/such/sweep.yaml' (no YAML file is in that folder)\n"


@pytest.mark.parametrize("arguments", [["--max-concurrent", "0"], ["--max-concurrent", "many"], ["--no-such-option"]])
def test_options_that_make_no_sense(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_a_dry_run_lists_the_trials_and_starts_nothing(
    write_sweep: WriteSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep()
    assert main([str(sweep), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [trial.name for trial in load_sweep(sweep).trials()]
    assert all(line.endswith("  time unknown until one like it has run here") for line in lines)
    assert total == "4 trials"
    assert not (tmp_path / "runs").exists()
    assert os.listdir(tmp_path) == ["tiny.yaml"]  # noqa: PTH208


def test_a_dry_run_lists_what_is_left(
    write_sweep: WriteSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, folder = write_sweep(), tmp_path / "runs" / "tiny"
    first, second, *others = load_sweep(sweep).trials()
    with RunDirectory(folder / first.name).attempt(first.config, "data") as attempt:
        attempt.write_result(RESULT)
    with RunDirectory(folder / second.name).attempt(second.config, "data") as attempt:
        attempt.append(StepMetrics(1, 1000, {"val/mae_eV": 0.5, "seconds_per_epoch": 3600.0}))
        attempt.write_state("stopped", 1)
    arguments = [str(sweep), "--runs", str(tmp_path / "runs"), "--dry-run"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{second.name}  {second.config.train.epochs - 1} h (as earlier trials), resumes after epoch 1"
    assert [line.split()[0] for line in lines[1:-2]] == [trial.name for trial in others]
    assert lines[-2] == "1 of 4 trials are done"
    assert lines[-1].startswith("3 trials: ")
    for trial in (second, *others):
        with RunDirectory(folder / trial.name).attempt(trial.config, "data") as attempt:
            attempt.write_result({**RESULT, "final": {**RESULT["final"], "step": 1}})
    assert main(arguments) == 0
    assert capsys.readouterr().out == "4 of 4 trials are done\n"


def test_a_table_that_cannot_be_made_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not _analyse("tiny", tmp_path, None, tmp_path / "output")
    assert "no finished trials of the sweep 'tiny'" in capsys.readouterr().err


def test_a_folder_that_cannot_hold_the_table_is_said_before_any_trial(
    write_sweep: WriteSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "output").write_text("a file where the folder should be")
    where = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "output")]
    assert main([str(write_sweep()), *where]) == 2
    assert capsys.readouterr().err.endswith(f"be written to {tmp_path}/output: name another folder with --output\n")
    assert not list((tmp_path / "runs").glob("tiny/*"))


def test_the_default_sweep_is_the_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--runs", str(tmp_path)]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert {name.split("-")[1] for name in names} == {"none", "pca", "lattice", "static_local", "weighted_pca", "max"}
