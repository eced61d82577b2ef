"""A store as accidents leave it gives the tables of a clean one: nothing that did not finish is averaged in."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from analysis.comparison import compare
from analysis.documents import to_markdown
from analysis.figures import parity_plot
from analysis.items import Context
from analysis.pairs import answer, winner
from analysis.results import MissingError, read_sweep
from analysis.tables import ablation_table, significance_table
from analysis.tables.ablation_table import produce as ablation
from analysis.tables.significance_table import produce as significance
from crystalframer.commands.sweep import _analyse
from crystalframer.config import FRAMES, FrameName
from tests.analysis.conftest import SWEEP, Store

IDS = [f"material-{number}" for number in range(60)]


def predictions(frame: FrameName, seed: int) -> tuple[float, dict[str, tuple[float, float]]]:
    """Test MAE and predictions of a trial; max frames err less by a planted tenth."""
    random = np.random.default_rng([seed, FRAMES.index(frame)])
    targets = np.random.default_rng(0).normal(0, 1, len(IDS))
    errors = random.choice([-1, 1], len(IDS)) * (random.uniform(0.2, 0.4, len(IDS)) - (0.1 if frame == "max" else 0.0))
    table = {id: (float(t), float(t + e)) for id, t, e in zip(IDS, targets, errors, strict=True)}
    return float(np.mean([abs(t - p) for t, p in table.values()])), table


def fill(store: Store, frames: Sequence[FrameName] = ("none", "pca", "max")) -> None:
    """Two seeds of some frames."""
    for frame in frames:
        for seed in (0, 1):
            mae, table = predictions(frame, seed)
            store.add(frame, seed, test_mae=mae, predictions=table)


def make_mess(store: Store) -> None:
    """Add what crashes, kills and copies leave behind, all of it with errors that would show in a mean."""
    first = read_sweep(store.tracking_uri, SWEEP).trials[0]
    store.add(first.config.model.frame, first.config.train.seed, key=first.run_key, test_mae=first.test_mae)
    store.add("max", 2, test_mae=9.0, status="KILLED")
    store.add("max", 3, test_mae=9.0, status="FAILED")
    store.add("none", 2, test_mae=9.0, status="RUNNING")
    store.add("pca", 2, test_mae=9.0, recorded_epochs=3)
    store.client.set_terminated(store.add("pca", 3, test_mae=9.0, status="RUNNING"))
    store.add("max", 4, test_mae=9.0, current=False)
    deleted = store.add("max", 5, test_mae=9.0)
    store.client.delete_run(deleted)


def test_tables_are_those_of_the_clean_store(store: Store, tmp_path: Path) -> None:
    fill(store)
    clean = written(store, tmp_path / "clean")
    make_mess(store)
    messy = written(store, tmp_path / "messy")
    assert clean == messy
    results = read_sweep(store.tracking_uri, SWEEP, store.runs)
    assert len(results.trials) == 6
    reasons = sorted(entry.split(": ")[1] for entry in results.left_out)
    assert reasons == [
        "failed",
        "incomplete record, 3 of 8 epochs",
        "incomplete record, no test/mae_eV_per_atom, test/baseline_mae_eV_per_atom, num_parameters",
        "killed",
        "not in the sweep as its file now reads",
        "recorded twice, the later record says the same",
        "running",
    ]


def test_the_planted_difference_is_found_and_no_other(store: Store) -> None:
    fill(store)
    document = significance_table.build(read_sweep(store.tracking_uri, SWEEP, store.runs))
    found = {(row["first"], row["second"]): row for _, row in document.records.dropna().iterrows()}
    assert set(found) == {("none (Crystalformer)", "PCA"), ("none (Crystalformer)", "max"), ("PCA", "max")}
    real = {row[0]: row[-1] for row in document.tables[0].rows if row[1]}
    assert real["none (Crystalformer) − max"] == real["PCA − max"] == "yes"
    assert real["none (Crystalformer) − PCA"] == "no"
    difference = found["PCA", "max"]
    assert difference["low"] < 0.1 < difference["high"]
    assert difference["materials"] == len(IDS)
    assert 0 < difference["smallest_detectable"] < 0.1


def test_only_a_real_winner_is_in_bold(store: Store) -> None:
    fill(store)
    markdown = to_markdown(ablation_table.build(read_sweep(store.tracking_uri, SWEEP, store.runs)))
    assert [line.split(" | ")[0] for line in markdown.splitlines() if "**" in line] == ["| max"]
    assert "really less than that of each of the other 2" in markdown


def test_of_two_rows_one_is_less_than_the_other(store: Store) -> None:
    fill(store, ("none", "max"))
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP, store.runs))
    assert "really less than that of the other." in answer(comparison)[0]


def test_where_nothing_is_real_nothing_is_in_bold(store: Store) -> None:
    fill(store, ("none", "pca"))
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP, store.runs))
    assert winner(comparison) is None
    said = " ".join(answer(comparison))
    assert "No row is the best for certain" in said
    assert "The difference may be chance." in said
    markdown = to_markdown(ablation_table.build(read_sweep(store.tracking_uri, SWEEP, store.runs)))
    assert "**" not in markdown


def test_the_parity_plot_says_what_its_dots_are(store: Store) -> None:
    fill(store)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP, store.runs))
    for axes, row in zip(parity_plot.draw(comparison).axes, comparison.finished, strict=True):
        dots = np.asarray(axes.collections[0].get_offsets())
        targets, predicted = dots.T
        assert len(dots) == len(IDS) * len(row.trials)
        mae, r2 = (
            np.abs(predicted - targets).mean(),
            1 - ((predicted - targets) ** 2).sum() / ((targets - targets.mean()) ** 2).sum(),
        )
        assert mae == pytest.approx(row.test_mae.mean)  # the table's
        assert axes.texts[0].get_text() == f"MAE {mae:.4f} eV/atom\nR² {r2:.3f}"


def test_without_predictions_the_significance_is_missing_not_guessed(store: Store, tmp_path: Path) -> None:
    fill(store)
    shutil.rmtree(store.runs / SWEEP)
    context = Context(read_sweep(store.tracking_uri, SWEEP, store.runs), SWEEP, tmp_path)
    with pytest.raises(MissingError, match="no two frames with test predictions"):
        significance(context)
    assert "0.3" in str(ablation(context))


def written(store: Store, folder: Path) -> dict[str, str]:
    """The two tables' CSV files."""
    arguments = ["--sweep", SWEEP, "--runs", str(store.runs), "--output", str(folder)]
    for script in (ablation_table, significance_table):
        assert script.ITEM.main(arguments) == 0
    return {name: (folder / SWEEP / f"{name}.csv").read_text() for name in ("ablation_table", "significance_table")}


def test_a_figure_that_cannot_be_made_is_no_success_of_the_table(store: Store, tmp_path: Path) -> None:
    store.add("none")
    store.add("max")
    assert len(_analyse(SWEEP, store.runs, None, tmp_path)) > 4
    figure = next((tmp_path / SWEEP).glob("learning_curves_*.png"))
    figure.unlink()
    figure.mkdir()
    assert _analyse(SWEEP, store.runs, None, tmp_path) == []
