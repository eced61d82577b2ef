"""The ablation table's content, and that it says the same each time."""

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis import pairs
from analysis.comparison import Comparison, compare
from analysis.figures import learning_curves
from analysis.items import Context
from analysis.results import read_sweep
from analysis.tables import ablation_table, significance_table
from crystalframer.config import FRAMES
from tests.analysis.conftest import SWEEP, Store

MAE = {"none": 0.4, "pca": 0.5, "lattice": 0.45, "static_local": 0.3, "weighted_pca": 0.35, "max": 0.25}
SUFFIXES = ("md", "csv", "tex", "html")


def fill(store: Store, tags: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """Two seeds of every frame, at MAE ± 0.01; return the run ids by frame."""
    return {
        frame: [store.add(frame, seed, test_mae=mae + 0.02 * seed - 0.01, tags=tags) for seed in (0, 1)]
        for frame, mae in MAE.items()
    }


def write(store: Store, output: Path) -> dict[str, str]:
    """Run the script; return its three files' texts."""
    assert ablation_table.ITEM.main(["--sweep", SWEEP, "--runs", str(store.runs), "--output", str(output)]) == 0
    return {suffix: (output / SWEEP / f"ablation_table.{suffix}").read_text() for suffix in SUFFIXES}


def test_rows_follow_the_paper_and_state_mean_spread_and_cost(store: Store, tmp_path: Path) -> None:
    fill(store)
    rows = [line.split(" | ") for line in write(store, tmp_path)["md"].splitlines() if line.startswith("| ")][2:]

    names = ["none (Crystalformer)", "PCA", "lattice", "static local", "weighted PCA", "max"]
    assert [row[0].removeprefix("| ") for row in rows] == names
    # 0.24 and 0.26: mean 0.25, sample standard deviation 0.02/√2; validation MAE 9/8 of the test MAE in the toy store
    assert rows[-1][1:] == ["0.2500 ± 0.0141", "2", "0.2812 ± 0.0159", "4.00", "951,821", "2.00 |"]
    assert rows[0][1:] == ["0.4000 ± 0.0141", "2", "0.4500 ± 0.0159", "2.50", "951,821", "2.00 |"]


def test_the_header_says_what_was_measured(store: Store, tmp_path: Path) -> None:
    fill(store, tags={"num_train": "80", "num_val": "20", "num_test": "21"})
    store.client.set_experiment_tag(store.experiment_id, "num_trials", "18")
    markdown = write(store, tmp_path)["md"]
    assert "12 of 18 trials finished" in markdown
    assert "## sample, formation_energy" in markdown
    assert "80 / 20 / 21 crystals" in markdown
    assert "8 epochs, batch 16, cutoff 8.0 Å, reference kernel" in markdown
    assert "predicting the training mean: test MAE 1.0000 eV/atom" in markdown
    assert "ublished" not in markdown  # the sample is none of the paper's data sets


def test_without_predictions_nothing_is_in_bold_and_a_sentence_says_why(store: Store, tmp_path: Path) -> None:
    fill(store)
    markdown = write(store, tmp_path)["md"]
    assert "**" not in markdown
    assert "The lowest error is that of max: test MAE 0.2500 ± 0.0141 eV/atom; without test predictions" in markdown


def test_csv_holds_unrounded_numbers(store: Store, tmp_path: Path) -> None:
    fill(store)
    rows = list(csv.DictReader(write(store, tmp_path)["csv"].splitlines()))
    assert [row["frame"] for row in rows] == list(FRAMES)
    assert float(rows[-1]["test_mae_mean"]) == pytest.approx(0.25, abs=1e-15)
    assert float(rows[-1]["test_mae_std"]) == pytest.approx(0.02 / 2**0.5, abs=1e-15)
    assert (rows[-1]["seeds"], rows[-1]["parameters"], rows[-1]["published_mae"]) == ("2", "951821", "")


def test_running_it_twice_writes_the_same_bytes(store: Store, tmp_path: Path) -> None:
    fill(store)
    assert write(store, tmp_path / "first") == write(store, tmp_path / "second")


@pytest.mark.parametrize("frame", ["static_local", "max"])
def test_deleting_a_run_changes_its_row_alone(store: Store, tmp_path: Path, frame: str) -> None:
    runs = fill(store)
    before = write(store, tmp_path / "before")["csv"].splitlines()
    store.client.delete_run(runs[frame][0])
    after = write(store, tmp_path / "after")["csv"].splitlines()
    changed = [n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert changed == [1 + list(MAE).index(frame)]
    assert next(csv.DictReader([after[0], after[changed[0]]]))["test_mae_std"] == ""  # a single seed has no spread


def test_a_frame_without_finished_trials_has_an_empty_row(store: Store, tmp_path: Path) -> None:
    store.add("max", 0, test_mae=0.2)
    store.add("pca", 0, status="FAILED")
    texts = write(store, tmp_path)
    assert "| PCA |  |  |  |  |  |  |\n" in texts["md"]
    assert "| max | 0.2000 | 1 |" in texts["md"]
    assert "Left out:\n\n- formation_energy-pca-seed0-" in texts["md"]
    assert "sample,formation_energy,eV/atom,pca,,0,,,,,,,,,,,\n" in texts["csv"]


def test_a_complete_sweep_shows_only_the_frames_it_asked_for(store: Store, tmp_path: Path) -> None:
    store.client.set_experiment_tag(store.experiment_id, "num_trials", "2")
    store.add("none", 0)
    assert "| PCA |" in write(store, tmp_path)["md"]
    store.add("max", 0)
    markdown = write(store, tmp_path)["md"]
    assert "| PCA |" not in markdown
    assert "| none (Crystalformer) |" in markdown


def test_published_figures_stand_beside_the_papers_data_sets(store: Store, tmp_path: Path) -> None:
    jarvis = {"data.dataset": "jarvis", "data.task": "bandgap_opt"}
    store.add("max", 0, unit="eV", settings=jarvis)
    store.add("max", 0, unit="eV", settings={**jarvis, "model.preset": "lightweight"})
    store.add("none", 0, unit="eV", settings={**jarvis, "model.width": 64})
    texts = write(store, tmp_path)
    published = {
        (row["frame"], row["variant"]): row["published_mae"] for row in csv.DictReader(texts["csv"].splitlines())
    }
    assert published["max", "width 128"] == "0.117"
    assert published["max", "lightweight, width 128"] == "0.117"
    assert published["lattice", ""] == "0.125"  # nothing finished yet; the figure to reach is known
    assert published["none", "width 64"] == ""  # the paper has no such model
    assert "on the full split (44578 / 5572 / 5572)" in texts["md"]
    assert "not directly comparable" in texts["md"]


def test_the_full_split_is_comparable(store: Store, tmp_path: Path) -> None:
    sizes = {"num_train": "44578", "num_val": "5572", "num_test": "5572"}
    store.add("max", 0, settings={"data.dataset": "jarvis", "data.train_size": None}, tags=sizes)
    markdown = write(store, tmp_path)["md"]
    assert "44578 / 5572 / 5572 crystals" in markdown
    assert "comparable" not in markdown


def test_latex_is_escaped(store: Store, tmp_path: Path) -> None:
    fill(store)
    latex = write(store, tmp_path)["tex"]
    assert r"max & 0.2500 $\pm$ 0.0141 & 2 &" in latex
    assert r"formation\_energy" in latex
    assert "±" not in latex
    assert "Å" not in latex


def test_without_results_it_says_how_to_make_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation_table.ITEM.main(["--runs", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run `crystalframer sweep ablation_sample` first" in error
    assert not (tmp_path / "out").exists()


def test_pairs_of_many_rows_are_not_judged_and_this_is_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = {"a": (0.0, 0.4), "b": (1.0, 1.6)}
    for seed, rate in enumerate((1e-4, 2e-4, 3e-4)):
        store.add("max", seed, test_mae=0.5, settings={"train.learning_rate": rate}, predictions=tested)
    monkeypatch.setattr(pairs, "MOST_ROWS", 2)
    many = "differences are judged among at most 2 rows, here are 3"
    assert f"it may be chance: {many}." in write(store, tmp_path)["md"]
    results = read_sweep(store.tracking_uri, SWEEP, store.runs)
    assert pairs.find_pairs(compare(results)[0]) == ()
    assert significance_table.build(results).tables[0].notes == [f"Not judged: {many}."]


def test_a_figure_of_many_rows_shows_the_best_and_says_so(store: Store, tmp_path: Path) -> None:
    for rate, mae in ((1e-4, 0.3), (2e-4, 0.9), (3e-4, 0.2)):
        store.add("max", test_mae=mae, settings={"train.learning_rate": rate})
    results = read_sweep(store.tracking_uri, SWEEP, store.runs)
    drawn: list[Comparison] = []

    def draw(comparison: Comparison) -> Figure:
        drawn.append(comparison)
        return learning_curves.draw(comparison)

    product = Context(results, SWEEP, tmp_path).draw_each(draw, "curves", most=2)
    assert [row.variant for row in drawn[0].finished] == ["learning_rate 0.0001", "learning_rate 0.0003"]
    assert product.text.endswith("the 2 of 3 rows with the lowest test errors are drawn.\n")
