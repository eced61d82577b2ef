"""What is committed under results/ agrees with its hashes and predictions, and the page is what the program writes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import results_page
from analysis.comparison import compare
from analysis.exported import check, read, write
from analysis.figures import error_against_time
from analysis.items import Context
from analysis.peers import recorded_peers
from analysis.results import MissingError, read_sweep
from crystalframer.beside import HOME
from tests.analysis.conftest import SWEEP, Store
from tests.analysis.test_tables import PART

RECORDED = sorted(path.parent for path in (HOME / "results").glob("*/sweep.json"))


@pytest.mark.parametrize("folder", RECORDED, ids=lambda path: path.name)
def test_recorded_results_agree_with_their_hashes_and_predictions(folder: Path) -> None:
    assert "agree" in check(folder)
    results = read(folder).results()
    assert len(results.trials) >= 1
    assert all(row.trials for comparison in compare(results) for row in comparison.rows) or not results.complete
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


@pytest.mark.parametrize("folder", RECORDED, ids=lambda path: path.name)
def test_titles_and_labels_stay_within_their_picture(folder: Path, tmp_path: Path) -> None:
    results = read(folder).results()
    for comparison in compare(results):
        with Context(results, results.sweep, tmp_path).style():
            figure = error_against_time.draw(comparison, recorded_peers(results))
            figure.draw_without_rendering()  # lays it out
            seen = figure.get_tightbbox()
        assert seen.x0 >= 0
        assert seen.x1 <= figure.get_size_inches()[0]


def test_the_page_is_what_the_program_writes(tmp_path: Path) -> None:
    assert len(RECORDED) >= 1
    assert results_page.main(["--output", str(tmp_path / "results.md")]) == 0
    assert (tmp_path / "results.md").read_text() == (HOME / "docs" / "results.md").read_text()


def test_the_page_names_what_was_not_run(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    text = "question: Is it so?\ngrid: {train.seed: [0]}\n"
    (tmp_path / "sweeps" / "one.yaml").write_text(text)
    page = results_page.page(tmp_path / "results", tmp_path / "sweeps")
    assert "- `one`: Is it so?" in page
    assert page.count("## ") == 2  # that, and the models of the package


def test_the_page_names_what_a_study_lacks_of_its_sweep(tmp_path: Path) -> None:
    recorded = read(HOME / "results" / "ablation_sample")
    trials = [trial for trial in recorded.record.trials if trial.config.model.frame in ("none", "max")]
    expected = len(recorded.record.trials)
    kept = [trial for trial in trials if (trial.config.model.frame, trial.config.train.seed) != ("max", 1)]
    record = replace(recorded.record, trials=kept, expected=expected)
    tested = recorded.predictions[recorded.predictions["trial"].isin([trial.run_key for trial in kept])]
    write(tmp_path / "results" / "ablation_sample", replace(recorded, record=record, predictions=tested))
    page = results_page.page(tmp_path / "results", HOME / "sweeps")
    (line,) = [line for line in page.splitlines() if line.startswith("Not run: ")]
    lacking = [f"{frame} (seeds 0, 1, 2)" for frame in ("PCA", "lattice", "static local", "weighted PCA")]
    assert sorted(line.removeprefix("Not run: ").removesuffix(".").split("; ")) == sorted([*lacking, "max (seed 1)"])
    assert "| PCA |" not in page


@pytest.mark.parametrize(("test", "lines"), [("1813", 5), ("1700", 0)])
def test_error_against_time_has_published_errors_as_lines(store: Store, tmp_path: Path, test: str, lines: int) -> None:
    settings = {**PART, "data.dataset": "jarvis"}
    tags = {"num_train": "14439", "num_val": "1817", "num_test": test, "threads": "2"}
    store.add("max", 0, test_mae=0.268, unit="eV", settings=settings, tags=tags)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
    (axes,) = error_against_time.draw(comparison).axes
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert len(dotted) == lines
    (dot,) = [line for line in axes.lines if line.get_marker() == "o"]
    history = comparison.trials[0].history["seconds"]
    seconds = len(history) * float(history.median())
    assert np.asarray(dot.get_xydata()) == pytest.approx(np.array([[2 * seconds / 60, 0.268]]))


def test_without_threads_there_is_no_time_to_draw(store: Store, tmp_path: Path) -> None:
    store.add("max", 0)
    context = Context(read_sweep(store.tracking_uri, SWEEP), SWEEP, tmp_path)
    with pytest.raises(MissingError, match="no trial that recorded its threads"):
        error_against_time.produce(context)
