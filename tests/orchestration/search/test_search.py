"""A search finds a planted optimum for a fraction of the grid's epochs, and resumes without repeating or losing."""

import csv
import itertools
import json
import math
from pathlib import Path

import pytest

from crystalframer.orchestration.search.search import confirmations
from crystalframer.orchestration.search.search_results import HISTORY, RESULTS, best_first, write_results
from crystalframer.orchestration.search.search_spec import EarlyStopping
from crystalframer.runs.run_directory import RunDirectory
from tests.orchestration.searches import Bench
from tests.orchestration.stub_training import NOISE, floor

GRID_POINTS = (9, 7, 5)
"""Of the learning rate, the weight decay and the radius: a coarse grid over the space."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_planted_optimum_is_found_with_a_quarter_of_the_grids_epochs(tmp_path: Path, seed: int) -> None:
    bench = Bench(tmp_path, seed=seed, budget={"trials": 90})
    epochs = bench.spec.default.train.epochs
    grid = math.prod(GRID_POINTS) * epochs
    _, driver, source = bench.run()
    results = write_results(bench.spec, source.trials, driver)
    assert results["epochs"]["used"] <= grid / 4
    best = best_first(bench.spec, source.trials)[0]
    found = floor(bench.spec.config(best.values))
    assert found < 0.1 + 1.5 * NOISE  # no better than the noise can tell
    points = {
        "train.learning_rate": [10 ** (i / 2 - 5) for i in range(9)],
        "train.weight_decay": [10.0 ** (i - 7) for i in range(7)],
        "model.r_0": [0.8 + 0.4 * i for i in range(5)],
    }
    assert tuple(map(len, points.values())) == GRID_POINTS
    on_grid = min(
        floor(bench.spec.config(dict(zip(points, values, strict=True))))
        for values in itertools.product(*points.values())
    )
    print(f"seed {seed}: {found:.4f}, best of the grid {on_grid:.4f}, {results['epochs']['used']} of {grid} epochs")
    assert results["importance"]["first_rung"]["train.learning_rate"] > 0.5
    assert results["importance"]["first_rung"]["train.weight_decay"] < 0.2


def test_leaving_and_resuming_neither_repeats_nor_loses(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget={"trials": 14}, confirm={"best": 2, "seeds": [0, 1]})
    for left_after in (3, 11, 29):
        bench.run(steps=left_after)
    outcome, driver, source = bench.run()
    assert outcome.failed == {}
    trials = source.trials
    assert len(trials) == 14
    assert all(trial.over for trial in trials)
    folders = sorted(path.name for path in driver.folder.iterdir() if path.is_dir())
    assert folders == sorted(driver.trials)
    assert len(folders) == 14 + 4
    for name in folders:
        directory = RunDirectory(driver.folder / name)
        steps = [record.step for record in directory.records()]
        assert steps == list(range(1, len(steps) + 1))
        early = directory.stopped_early()
        assert (early is None) != (directory.result() is None)
        assert len(steps) == (27 if early is None else early.epoch)
        assert {step for _, step in bench.runs[name].metrics} == set(steps)
    before = {path: path.stat().st_mtime_ns for path in driver.folder.rglob("*") if path.is_file()}
    outcome, driver, source = bench.run()  # nothing is left
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(source.trials) == 14


def test_more_trials_go_on_from_those_there_are(tmp_path: Path) -> None:
    Bench(tmp_path, budget={"trials": 5}).run()
    first = {path.name for path in (tmp_path / "runs" / "planted").iterdir() if path.is_dir()}
    _, _, source = Bench(tmp_path, budget={"trials": 8}).run()
    now = {path.name for path in (tmp_path / "runs" / "planted").iterdir() if path.is_dir()}
    assert first < now
    assert (len(first), len(now), len(source.trials)) == (5, 8, 8)


def test_the_order_of_trials_follows_from_the_seed(tmp_path: Path) -> None:
    names = []
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        bench = Bench(tmp_path / folder, budget={"trials": 6}, seed=3)
        _, driver, _ = bench.run(workers=1)
        names.append(list(driver.trials))
    assert names[0] == names[1]


def test_a_bound_on_epochs_ends_the_search(tmp_path: Path) -> None:
    _, driver, source = (bench := Bench(tmp_path, budget={"trials": 90, "epochs": 60})).run(workers=2)
    used = write_results(bench.spec, source.trials, driver)["epochs"]["used"]
    assert 60 <= used < 60 + 2 * 27  # what runs then runs on


def test_a_driver_that_died_over_a_decision_makes_it_when_it_is_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget={"trials": 6})
    _, driver, _ = bench.run(workers=1)
    stopped = next(name for name in driver.trials if driver.directory(name).stopped_early() is not None)
    path = driver.directory(stopped).path / "stopped_early.json"
    decision = path.read_text()
    path.unlink()  # the epoch was recorded, the decision was not
    bench.run(workers=1)
    assert json.loads(path.read_text())["epoch"] == json.loads(decision)["epoch"]


def test_settings_that_diverge_are_remembered_as_bad(tmp_path: Path) -> None:
    space = {"train.learning_rate": {"choice": [1.0, 0.001, 0.002]}}
    bench = Bench(tmp_path, space=space, budget={"trials": 3}, early_stopping=None)
    outcome, driver, _ = bench.run()
    (name,) = outcome.failed
    assert outcome.failed[name] == "TrainingDivergedError: the loss is nan"
    assert driver.trials[name].config.train.learning_rate == 1.0
    states = [trial.state.name for trial in bench.exported()]
    assert states.count("COMPLETE") == 2
    assert states.count("PRUNED") == 1


def test_a_space_that_is_exhausted_ends_the_search(tmp_path: Path) -> None:
    space = {"train.learning_rate": {"choice": [0.001, 0.002, 0.003]}}
    outcome, driver, _ = Bench(tmp_path, space=space, budget={"trials": 20}, early_stopping=None).run()
    assert outcome.failed == {}
    assert {trial.config.train.learning_rate for trial in driver.trials.values()} == {0.001, 0.002, 0.003}
    assert len(driver.trials) == 3


def test_two_objectives_give_a_front(tmp_path: Path) -> None:
    bench = Bench(tmp_path, objectives=["val_mae", "num_parameters"], budget={"trials": 12})
    _, driver, source = bench.run()
    results = write_results(bench.spec, source.trials, driver)
    assert results["pareto_front"]
    assert results["best"][0]["trial"] in results["pareto_front"]  # all have as many parameters: the best error alone
    done = [entry for entry in results["best"] if entry["fate"] == "done"]
    assert [trial.state.name for trial in bench.exported()].count("COMPLETE") == len(done)
    assert results["best"][: len(done)] == done


def test_what_the_analysis_reads(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget={"trials": 12}, confirm={"best": 2, "seeds": [0, 1, 2]})
    _, driver, source = bench.run()
    write_results(bench.spec, source.trials, driver)
    results = json.loads((driver.folder / RESULTS).read_text())
    assert set(results["best"][0]["values"]) == set(bench.spec.space)
    assert [entry["seed"] for entry in results["best"][0]["confirmed"]] == [0, 1, 2]
    assert results["best"][0]["confirmed_test_mae"]["std"] > 0
    assert "confirmed_test_mae" not in results["best"][2]
    assert len(results["history"]) == 12
    assert {entry["fate"] for entry in results["history"]} == {"done", "stopped early"}
    with (driver.folder / HISTORY).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [entry["trial"] for entry in results["history"]]
    assert len(confirmations(bench.spec, best_first(bench.spec, source.trials))) == 6


def test_halving_keeps_the_best_third() -> None:
    errors = [0.5, 0.6, 0.4, 0.3, 0.45, 0.2]
    third = EarlyStopping(reduction=3)
    decisions = [third.goes_on(error, errors[: i + 1]) for i, error in enumerate(errors)]
    assert decisions == [True, False, True, True, False, True]
    assert not third.goes_on(math.nan, [*errors, math.nan])


def test_halving_needs_only_what_is_recorded() -> None:
    recorded, half = [0.5, 0.2, 0.3], EarlyStopping(reduction=2)
    for order in itertools.permutations(recorded):
        assert half.goes_on(0.15, [*order, 0.15])
        assert half.goes_on(0.25, [*order, 0.25])
        assert not half.goes_on(0.9, [*order, 0.9])
