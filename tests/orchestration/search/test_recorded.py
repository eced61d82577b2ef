"""The run directories are all that a search remembers; the study in the database follows from them."""

import contextlib
import json
import math
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalframer.orchestration.search.population import PopulationSource
from crystalframer.orchestration.search.search_results import RESULTS
from crystalframer.runs.run_directory import RunDirectory
from pipelines.tune_hyperparameters import main
from tests.orchestration.search.test_population import PBT, folder
from tests.orchestration.searches import SPACE, Bench, search_fields, write_search


def tried(bench: Bench) -> dict[str, int]:
    """Return the epochs of each trial of a search."""
    paths = sorted((bench.folder / "runs" / "planted").glob("*/"))
    return {path.name: len(RunDirectory(path).records()) for path in paths}


@pytest.mark.parametrize("fields", [{}, {"objectives": ["val_mae", "num_parameters"]}, {"method": "random"}])
def test_a_search_tries_the_same_however_often_it_is_left_and_without_its_study(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    whole = Bench(folder(tmp_path, "whole"), budget={"trials": 14}, seed=5, **fields)
    left = Bench(folder(tmp_path, "left"), budget={"trials": 14}, seed=5, **fields)
    whole.run(workers=1)
    for steps in (0, 5, 1, 27, 3):
        left.run(workers=1, steps=steps)
        (left.folder / "runs" / "optuna.db").unlink()
    left.run(workers=1)
    assert tried(left) == tried(whole)


def test_a_trial_is_on_disk_before_anyone_is_told_of_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget={"trials": 3})
    dispatcher, _, _ = bench.start()
    job = dispatcher.next_job()
    assert job is not None
    identity = job.directory.identity()
    assert identity is not None
    assert identity["settings"] == job.trial.config.to_dict()
    again = bench.start()[0].next_job()  # its driver died at once
    assert again == job


def test_the_database_shows_what_the_directories_say(tmp_path: Path) -> None:
    space = {**SPACE, "model.frame": {"choice": ["none", "max"]}, "train.decay_steps": {"int": [100, 400], "step": 100}}
    bench = Bench(tmp_path, budget={"trials": 12}, space=space)
    bench.run(steps=90)
    _, _, source = bench.run()
    states = {"done": "COMPLETE", "stopped early": "PRUNED"}
    for _ in range(2):
        shown = {trial.user_attrs["trial"]: trial for trial in bench.exported()}
        assert set(shown) == {trial.name for trial in source.trials}
        for trial in source.trials:
            status, theirs = trial.status, shown[trial.name]
            assert theirs.params == dict(trial.values)
            assert theirs.state.name == states[status.standing]
            assert theirs.intermediate_values == {
                rung: status.val_maes[rung] for rung in (1, 3, 9) if rung <= trial.epochs
            }
            if status.standing == "done":
                assert theirs.values == [status.val_mae]
        bench.start()  # writes it anew


def test_a_damaged_database_is_written_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget={"trials": 4})
    _, _, source = bench.run()
    path = tmp_path / "runs" / "optuna.db"
    whole, random = path.read_bytes(), np.random.default_rng(0)
    noise = bytearray(whole)
    for place in random.integers(0, len(whole), 2000):
        noise[place] = int(random.integers(256))
    for damaged in (b"", b"no database", whole[: len(whole) // 2], bytes(noise)):
        path.write_bytes(damaged)
        bench.start()
        assert [trial.user_attrs["trial"] for trial in bench.exported()] == [trial.name for trial in source.trials]


def test_a_database_that_fails_does_not_end_the_search(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget={"trials": 4})
    dispatcher, driver, source = bench.start()
    with contextlib.closing(sqlite3.connect(tmp_path / "runs" / "optuna.db")) as database, database:
        database.execute("DROP TABLE trials")
    outcome, _, _ = bench.drive(dispatcher, driver, source)
    assert outcome.failed == {}
    assert all(trial.over for trial in source.trials)
    assert len(source.trials) == 4
    (said,) = bench.said
    assert said.startswith("cannot use the Optuna database")
    assert said.endswith("The search goes on; its next start writes the study anew")


def test_a_trial_that_failed_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget={"trials": 2}, early_stopping=None)
    bench.run(workers=1, steps=5)
    (path,) = (tmp_path / "runs").glob("planted/*/state.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "failed", "reason": "OSError: [Errno 5]"}))
    outcome, _, source = bench.run()
    assert outcome.failed == {}
    assert {trial.status.standing for trial in source.trials} == {"done"}
    assert set(tried(bench).values()) == {27}


def test_a_member_that_failed_is_remembered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, **PBT)
    dispatcher, _, source = bench.start()
    job = dispatcher.next_job()
    assert job is not None
    source.failed(job.name, "OSError: [Errno 5]")
    early = job.directory.stopped_early()
    assert early is not None
    assert early.val_mae == math.inf
    outcome, driver, source = bench.run()
    assert outcome.failed == {}
    assert job.name not in {trial.name for trial in source.trials}
    assert len(source.trials) == 11
    assert isinstance(source, PopulationSource)
    assert sum(name.startswith("g001-m00") for name in driver.trials) == 1  # it took over from another one


def changed_base(**train: Any) -> dict[str, Any]:
    base = search_fields()["base"]
    return {**base, "train": {**base["train"], **train}}


CHOICES = {"model.frame": {"choice": ["none", "max"]}}
OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"space": {**SPACE, "model.frame": {"choice": ["none", "max", "pca"]}}}, "space.model.frame"),
    ({"space": {**SPACE, **CHOICES, "model.r_0": {"uniform": [0.8, 2.5]}}}, "space.model.r_0"),
    ({"space": {**SPACE, **CHOICES, "train.clip_norm": {"uniform": [0.5, 2.0]}}}, "space.train.clip_norm"),
    ({"space": SPACE}, "space.model.frame"),
    ({"base": changed_base(batch_size=4)}, "train.batch_size 8, the file now has 4"),
    ({"base": changed_base(epochs=28)}, "train.epochs 27, the file now has 28"),
    ({"objectives": ["val_mae", "num_parameters"]}, "objectives"),
    ({"method": "random"}, "method"),
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three trials of a search."""
    parent = tmp_path_factory.mktemp("ran")
    Bench(parent, budget={"trials": 3}, space={**SPACE, **CHOICES}).run()
    return parent


@pytest.mark.parametrize(("fields", "named"), OTHERS, ids=[named for _, named in OTHERS])
def test_a_search_whose_file_changed_is_refused_before_anything_starts(
    ran: Path, tmp_path: Path, fields: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    path = write_search(tmp_path, **{"space": {**SPACE, **CHOICES}, "budget": {"trials": 4}, **fields})
    assert main([str(path), "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert named in said
    assert "rename the file" in said
    after = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert {path.name for path in set(after) - set(before)} <= {".driver.lock"}
    assert {path: after[path] for path in before} == before


def test_directories_that_were_moved_away_count_no_more(ran: Path, tmp_path: Path) -> None:
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "runs" / "planted").glob("t*"):
        path.rename(tmp_path / path.name)
    bench = Bench(tmp_path, budget={"trials": 3}, base=changed_base(batch_size=4))
    _, _, source = bench.run()
    assert len(source.trials) == len(tried(bench)) == 3
    assert json.loads((tmp_path / "runs" / "planted" / RESULTS).read_text())["space"].keys() == SPACE.keys()


def test_another_population_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Bench(tmp_path, **PBT).run(steps=10)
    names = set(tried(Bench(tmp_path, **PBT)))
    for fields in ({"seed": 1}, {"population": {"members": 4, "interval": 8}}):
        path = write_search(tmp_path, **{**PBT, **fields})
        assert main([str(path), "--runs", str(tmp_path / "runs")]) == 2
        assert "rename the file" in capsys.readouterr().err
    (tmp_path / "runs" / "planted" / RESULTS).unlink()  # version 0.1 had none before the end
    assert main([str(write_search(tmp_path, **{**PBT, "seed": 1})), "--runs", str(tmp_path / "runs")]) == 2
    assert "not of the first generation" in capsys.readouterr().err
    assert set(tried(Bench(tmp_path, **PBT))) == names
