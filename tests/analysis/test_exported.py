"""Recorded results: what is exported says the same as MLflow, in the same bytes each time, and nobody changes it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import make_all, results_page
from analysis.comparison import compare
from analysis.exported import CRYSTALS, EPOCHS, PEERS, PREDICTIONS, SUMS, SWEEP, Exported, check, read, write
from analysis.exporting import Asked, added, collect, formula, run_directories
from analysis.results import read_sweep
from analysis.tables import ablation_table, significance_table
from crystalframer.atomic_files import sha256_of
from crystalframer.errors import UserError
from pipelines import export_results
from tests.analysis.conftest import SWEEP as NAME
from tests.analysis.conftest import Store


def folders(runs: Path) -> list[Path]:
    """The run directories."""
    return sorted(path.parent for path in (runs / NAME).glob("*/config.json"))


@pytest.fixture(scope="module")
def recorded(trained_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainings, exported by the program."""
    folder = tmp_path_factory.mktemp("results") / NAME
    assert export_results.main([NAME, "--runs", str(trained_runs), "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(recorded, tmp_path / NAME))


def test_the_files_are_small_and_plain(recorded: Path) -> None:
    assert {path.suffix for path in recorded.iterdir()} == {".json", ".parquet", ""}
    assert sum(path.stat().st_size for path in recorded.iterdir()) < 100_000
    trial = json.loads((recorded / SWEEP).read_text())["trials"][0]
    assert trial["cores"] >= 1
    assert trial["hours"] > 0
    assert trial["settings"]["model"]["frame"] == "max"


def test_tables_are_those_of_mlflow(recorded: Path, trained_runs: Path) -> None:
    ours = read(recorded).results()
    theirs = read_sweep(f"sqlite:///{trained_runs}/mlflow.db", NAME, trained_runs)
    theirs = replace(theirs, frames=ours.frames)  # frames without a trial are not exported
    for table in (ablation_table, significance_table):
        pd.testing.assert_frame_equal(table.build(ours).records, table.build(theirs).records, check_exact=True)
    for one, other in zip(ours.trials, theirs.trials, strict=True):
        pd.testing.assert_frame_equal(one.history, other.history, check_freq=False)


def test_a_second_export_writes_the_same_bytes(recorded: Path, trained_runs: Path, tmp_path: Path) -> None:
    write(tmp_path, collect(NAME, folders(trained_runs), None))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in recorded.iterdir()}


def test_tables_and_figures_come_without_mlflow_and_without_checkpoints(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = []
    for output in (tmp_path / "first", tmp_path / "second"):
        assert make_all.main(["--results", str(recorded), "--output", str(output)]) == 0
        made.append({path.name: path.read_bytes() for path in (output / NAME).iterdir()})
    assert made[0] == made[1]
    assert {"ablation_table.md", "significance_table.csv", "error_by_element.png", "index.html"} <= set(made[0])
    assert not (tmp_path / "runs").exists()


def test_the_check_agrees_and_says_what_it_compared(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_all.main(["--results", str(recorded), "--check"]) == 0
    assert "4 hashes, and the MAE, RMSE and last epoch of 5 trials from 60 predictions agree" in capsys.readouterr().out
    assert make_all.main(["--check"]) == 2
    assert "give them with --results FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("name", [SWEEP, EPOCHS, PREDICTIONS])
def test_a_changed_file_is_named(copy: Path, name: str) -> None:
    path = copy / name
    if name == SWEEP:
        path.write_text(path.read_text().replace('"max"', '"pca"', 1))
    else:
        table = pd.read_parquet(path)
        table.iloc[::-1].to_parquet(path, index=False)
    with pytest.raises(UserError, match=f"{name} has the SHA-256 .* it was changed; restore it"):
        check(copy)


def test_numbers_that_do_not_follow_from_the_predictions_are_found(recorded: Path, tmp_path: Path) -> None:
    content = read(recorded)
    first = content.predictions.index == 0
    predictions = content.predictions.assign(prediction=content.predictions["prediction"] + 0.5 * first)
    write(tmp_path, Exported(content.record, content.epochs, predictions, content.crystals))
    with pytest.raises(UserError, match=r"max-seed0-\w+ has the mae .*, its predictions and epochs give"):
        check(tmp_path)


def test_a_damaged_folder_is_one_sentence(copy: Path, tmp_path: Path) -> None:
    (copy / EPOCHS).write_bytes(b"PAR1 no longer")
    with pytest.raises(UserError, match="are damaged"):
        read(copy)
    with pytest.raises(UserError, match="write them with `crystalframer export nothing"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record["trials"][0].update(final={}), "lacks a final metric"),
        (lambda record: record["trials"][0].update(unit="zz"), "lacks a final metric"),
        (lambda record: record["trials"][0]["tags"].pop("num_test"), "lacks a final metric"),
        (lambda record: record["trials"].append(record["trials"][0]), "lists a trial twice"),
        (lambda record: record["trials"].clear(), "lists no trial"),
        (lambda record: record["trials"].pop(), "which sweep.json does not"),
    ],
)
def test_a_record_that_says_something_else_though_its_hashes_fit(
    copy: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    record = json.loads((copy / SWEEP).read_text())
    change(record)
    (copy / SWEEP).write_text(json.dumps(record))
    _seal(copy)
    with pytest.raises(UserError, match=said):
        check(copy)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (EPOCHS, lambda table: table.iloc[:0], "lacks the epochs"),
        (PREDICTIONS, lambda table: table.iloc[:0], "lacks the trial"),
        (PREDICTIONS, lambda table: table.drop(columns="target"), "no column 'target'"),
        (PREDICTIONS, lambda table: table.assign(prediction="1.0"), "'prediction' holds no numbers"),
        (CRYSTALS, lambda table: table.drop(columns="formula"), "no column 'formula'"),
    ],
)
def test_tables_that_lack_something_though_their_hashes_fit(
    copy: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    change(pd.read_parquet(copy / name)).to_parquet(copy / name)
    _seal(copy)
    with pytest.raises(UserError, match=said):
        read(copy)


def _seal(folder: Path) -> None:
    """Write the hashes of files as they are now, as whoever changed them can."""
    names = [line.partition("  ")[2] for line in (folder / SUMS).read_text().splitlines()]
    (folder / SUMS).write_text("".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))
    read.cache_clear()


def test_only_what_the_sweep_asks_for_counts(trained_runs: Path) -> None:
    every = collect(NAME, folders(trained_runs), None).record
    wanted = {trial.config.fingerprint(): f"renamed-{n}" for n, trial in enumerate(every.trials[:2])}
    some = collect(NAME, folders(trained_runs), Asked("Why?\n\nExpected: this", {**wanted, "00000000": "absent"}))
    assert [trial.run_key for trial in some.record.trials] == ["renamed-0", "renamed-1"]
    assert some.record.expected == 3
    assert len(some.record.left_out) == 3
    assert all(entry.endswith(": not in the sweep as its file now reads") for entry in some.record.left_out)
    assert not some.results().complete
    (comparison,) = compare(some.results())
    assert sum(len(row.trials) for row in comparison.rows) == 2


def test_unfinished_trials_are_left_out_and_none_at_all_is_an_error(trained: Store, tmp_path: Path) -> None:
    first, *rest = folders(trained.runs)
    (first / "done.json").unlink()
    assert collect(NAME, [first, *rest], None).record.left_out == [f"{first.name}: done"]
    with pytest.raises(UserError, match="no finished trial of 'toy' in the 1 run directories"):
        collect(NAME, [first], None)
    with pytest.raises(UserError, match="hold the same trial"):
        collect(NAME, [*rest, rest[0]], None)
    with pytest.raises(UserError, match="no run directories in"):
        run_directories(tmp_path)


def test_trials_that_are_added_stand_beside_those_recorded(trained_runs: Path, recorded: Path, tmp_path: Path) -> None:
    first, *rest = folders(trained_runs)
    tested = read(recorded).predictions.drop_duplicates("id")[["id", "target"]]
    tested.assign(prediction=tested["target"] + 0.25).to_csv(tmp_path / "shifted.csv", index=False)
    peers = ["--peers", f"Shifted={tmp_path}/shifted.csv"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def export(output: Path, runs: list[Path], *arguments: str) -> None:
        command = [NAME, "--output", str(output), "--from", *map(str, runs), *arguments]
        assert export_results.main(command) == 0

    export(whole, [first, *rest], *peers)
    export(parts, rest, *peers)
    assert len(read(parts).record.trials) == len(rest)
    export(parts, [first], "--add")
    export(parts, [first, rest[0]], "--add")  # replaces what is there, twice nothing
    assert {p.name: p.read_bytes() for p in parts.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}
    assert "Shifted" in read(parts).results().peers

    content = read(parts)
    some = {trial.config.fingerprint(): f"called otherwise {trial.run_key}" for trial in content.record.trials[1:]}
    asked = Asked("Why?", some)
    merged = added(content, collect(NAME, folders(trained_runs)[-1:], asked), asked)
    assert [trial.run_key for trial in merged.record.trials] == sorted(some.values())
    assert set(merged.epochs["trial"]) == set(merged.predictions["trial"]) == set(some.values())


def test_seeds_of_different_data_do_not_come_together(trained_runs: Path, recorded: Path) -> None:
    content = read(recorded)
    first = content.record.trials[0]
    other = replace(first, tags={**first.tags, "dataset_fingerprint": "0" * 64})
    elsewhere = replace(content, record=replace(content.record, trials=[other, *content.record.trials[1:]]))
    runs = [path for path in folders(trained_runs) if first.config.fingerprint() not in path.name]
    with pytest.raises(UserError, match="differ by their seed alone but were trained on different data"):
        added(elsewhere, collect(NAME, runs, None), None)


def test_crystals_carry_their_formulas(recorded: Path) -> None:
    content = read(recorded)
    assert set(content.crystals["id"]) == set(content.predictions["id"])
    assert formula([8, 12, 8, 12]) == "O1 Mg1"
    assert formula([8, 26, 26, 8, 8]) == "O3 Fe2"


def test_import_into_mlflow_gives_the_same_results_and_nothing_twice(
    recorded: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command = [sys.executable, str(root / "pipelines" / "import_results.py"), str(recorded), "--runs", str(tmp_path)]
    for _ in range(2):  # each in a process of its own: MLflow remembers by run where a server was that has ended
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, check=True)
    assert not list((tmp_path / "here").iterdir())  # predictions are kept with the runs, not where one happens to be
    theirs = read_sweep(f"sqlite:///{tmp_path}/mlflow.db", NAME, tmp_path)
    ours = read(recorded).results()
    assert [trial.run_key for trial in theirs.trials] == [trial.run_key for trial in ours.trials]
    for one, other in zip(ours.trials, theirs.trials, strict=True):
        assert (one.config, one.test_mae, one.val_mae) == (other.config, other.test_mae, other.val_mae)
        pd.testing.assert_frame_equal(one.history, other.history)
        tested, again = one.predictions(), other.predictions()
        assert tested is not None
        assert again is not None
        pd.testing.assert_frame_equal(tested, again)


def test_other_methods_predictions_are_recorded_and_compared(
    trained_runs: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = read(recorded).predictions.drop_duplicates("id")[["id", "target"]]
    foreign = pd.DataFrame({"id": ["elsewhere"], "target": [0.0]})
    table = pd.concat([tested, foreign]).assign(prediction=lambda rows: rows["target"] + 0.25)
    table.to_csv(tmp_path / "shifted.csv", index=False)
    folder = tmp_path / NAME
    arguments = [
        NAME,
        "--runs",
        str(trained_runs),
        "--output",
        str(folder),
        "--peers",
        f"Shifted={tmp_path}/shifted.csv",
        "--trees",
    ]
    assert export_results.main(arguments) == 0
    assert "5 hashes, and the MAE, RMSE" in capsys.readouterr().out
    recorded_peers = read(folder).results().peers
    assert set(recorded_peers["Shifted"].index) == set(tested["id"])  # of our test crystals alone
    output = tmp_path / "output"
    assert make_all.main(["--results", str(folder), "--output", str(output)]) == 0
    compared = pd.read_csv(output / NAME / "against_peers.csv")
    peer_mae = compared.groupby("peer")["peer_mae"]
    assert set(peer_mae.groups) == {"Shifted", "trees on composition"}
    assert peer_mae.get_group("Shifted").to_numpy() == pytest.approx(0.25)
    spread = (tested["target"] - tested["target"].mean()).abs().mean()
    assert (peer_mae.get_group("trees on composition") < 0.7 * spread).all(), "trees have learned from the crystals"
    pictures = results_page.draw(tmp_path, tmp_path / "images")
    assert [path.name for path in pictures] == [f"{NAME}_error_against_time.png"]
    text = results_page.page(tmp_path, tmp_path / "no_sweeps")
    assert f"(images/{NAME}_error_against_time.png)" in text
    assert "### Beside other methods" in text
    assert "Shifted" in text
    (folder / PEERS).unlink()
    read.cache_clear()
    with pytest.raises(UserError, match=r"peers\.parquet is missing, SHA256SUMS names it"):
        check(folder)
