"""The whole analysis on real, tiny trainings: what is made, what is missing, and that it says the same each time."""

import csv
import re
from pathlib import Path

import pytest

from analysis import make_all
from analysis.items import Context
from analysis.results import read_sweep
from tests.analysis.conftest import SWEEP, Store


def run(runs: Path, output: Path) -> Path:
    """Make everything; return the sweep's folder."""
    assert make_all.main(["--experiment", SWEEP, "--runs", str(runs), "--output", str(output)]) == 0
    return output / SWEEP


@pytest.fixture(scope="module")
def made(trained_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output for the trainings as they are."""
    return run(trained_runs, tmp_path_factory.mktemp("output"))


def test_every_item_whose_runs_exist_is_made(made: Path) -> None:
    page = (made / "index.html").read_text()
    shown = re.findall(r'<(?:section|div) id="(\w+)"', page)
    assert len(set(shown)) == len(shown)
    assert {item.name for item in make_all.items_of()} - set(shown) <= {
        "search",
        "speed",
        "error_against_crystals",
        "against_peers",
        "published_gap",
    }
    assert {path.suffix for path in made.iterdir()} == {".md", ".tex", ".html", ".csv", ".png", ".pdf", ".js"}


def test_what_is_missing_stands_there_with_its_command(made: Path) -> None:
    page = (made / "index.html").read_text()
    missing = page[page.index('id="missing"') :]
    assert "<code>crystalframer sweep ablation_frames</code>" in missing
    assert "no trial of ours on formation energy, total energy" in missing
    assert "is no hyperparameter search" in missing
    assert "5 of 18 trials finished" in missing


def test_the_answer_comes_first_and_what_is_missing_last(made: Path) -> None:
    page = (made / "index.html").read_text()
    parts = [page.index(f'id="{name}"') for name in ("answer", "how_sure", "why", "details", "published", "missing")]
    assert parts == sorted(parts)
    first = page[parts[0] : parts[1]]
    assert "The lowest error is that of" in first or "test MAE" in first
    assert "<table>" in first
    assert 'src="frame_errors_sample_formation_energy.png"' in first


def test_files_are_called_by_what_they_show(made: Path) -> None:
    assert (made / "frames_MgF2.png").is_file()  # the nearest to the paper's MgSnF4 in the sample
    assert (made / "frames_C3N4.png").is_file()


def test_an_item_that_cannot_be_made_is_named_and_the_exit_code_says_so(
    trained: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (trained.runs / SWEEP).glob("*-max-seed0-*/predictions/test.csv")
    path.write_text(re.sub(r",[^,a-z]+$", ",9.0", path.read_text(), flags=re.MULTILINE))
    assert make_all.main(["--experiment", SWEEP, "--runs", str(trained.runs), "--output", str(tmp_path)]) == 1
    assert "failed: Parity - " in capsys.readouterr().out
    page = (tmp_path / SWEEP / "index.html").read_text()
    assert "Parity could not be made:" in page
    assert "restore it, or run the trial again" in page


def test_the_page_needs_no_network_and_refers_to_what_is_there(made: Path) -> None:
    for path in made.glob("*.html"):
        text = path.read_text()
        references = re.findall(r'(?:src|href)="([^"#]+)"', text)
        for reference in references:
            assert (made / reference).is_file(), f"{path.name}: {reference}"
        assert path.name != "index.html" or len(references) > 40


def test_a_second_run_writes_the_same_bytes(made: Path, trained_runs: Path, tmp_path: Path) -> None:
    again = run(trained_runs, tmp_path)
    names = sorted(path.name for path in made.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert [name for name in names if (made / name).read_bytes() != (again / name).read_bytes()] == []


def test_deleting_a_run_changes_only_its_cells(made: Path, trained: Store, tmp_path: Path) -> None:
    runs = trained.client.search_runs(
        [trained.experiment_id], "params.`model.frame` = 'max' AND params.`train.seed` = '1'"
    )
    trained.client.delete_run(runs[0].info.run_id)
    results = read_sweep(trained.tracking_uri, SWEEP, trained.runs)
    after = tmp_path / "after"
    make_all.make(
        Context(results, SWEEP, after),
        make_all.items_of([script for script in make_all.ORDER if script.startswith("tables.")]),
    )
    whole_table = {"p_holm"}  # corrected for all pairs, so it may follow any of them
    for path in sorted(after.glob("*_table.csv")):
        before_rows, after_rows = rows(made / path.name), rows(path)
        assert len(before_rows) == len(after_rows)
        for old, new in zip(before_rows, after_rows, strict=True):
            if "max" not in {old.get("frame"), old.get("first"), old.get("second"), old.get("model")}:
                differing = {key for key in old if old[key] != new[key]}
                assert differing <= whole_table, (path.name, old)
    seeds = {row["frame"]: row["seeds"] for row in rows(after / "ablation_table.csv") if row["seeds"] != "0"}
    assert seeds == {"none": "1", "pca": "1", "weighted_pca": "1", "max": "1"}


def test_without_any_results_the_page_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "nowhere", tmp_path / "out")
    page = (folder / "index.html").read_text()
    assert f"No finished trials yet. Run <code>crystalframer sweep {SWEEP}</code>" in page
    assert "| max frames | published | 0.0263 |" in (folder / "jarvis_table.md").read_text()
    assert "| max frames | ours |  |  |  |  |  |" in (folder / "jarvis_table.md").read_text()
    assert (folder / "cell_choice.png").is_file()
    assert "missing: Frame ablation" in capsys.readouterr().out


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(path.read_text().splitlines()))
