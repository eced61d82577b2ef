"""Names longer than a file system allows: cut where they are ours, a sentence where they are the user's."""

from pathlib import Path

import pytest
import yaml

from analysis.comparison import Comparison
from crystalframer.atomic_files import replace_text
from crystalframer.data.dataset import unit_token
from crystalframer.data.preparation.targets import LONGEST_TASK, task_name
from crystalframer.errors import UserError
from crystalframer.escaping import shortened
from crystalframer.orchestration.search.recorded import subject
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.resolving import build_trial
from crystalframer.runs.single import default_name
from crystalframer.runs.status import TrialStatus, read_summary, write_plan
from tests.orchestration.conftest import PROSE

TASKS = ",".join(f"an_elastic_constant_whose_name_says_all_{number}" for number in range(9))
MOST = 255


def test_a_name_is_cut_and_stays_another_than_its_like() -> None:
    assert shortened("x" * 200) == "x" * 200
    long = [shortened("ä" * 300 + end) for end in "ab"]
    assert {len(name.encode()) for name in long} == {199}
    assert len(set(long)) == 2


def test_every_name_of_ours_is_a_folders(tmp_path: Path) -> None:
    trial = build_trial({"data.task": TASKS})
    assert len(default_name(trial)) <= MOST
    assert default_name(trial).endswith(f"-{trial.fingerprint()}")
    assert len(subject(trial)) <= MOST - len("g000-m00--seed2147483647-") - 8
    grid = {"model.frame": ["none", "max"], "train.seed": [0, 1]}
    grid |= {"model.cutoff": [4.123456789, 5.123456789], "train.learning_rate": [0.123456, 0.1234567]}
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump({**PROSE, "base": {"data.task": TASKS}, "grid": grid}))
    trials = load_sweep(path).trials()
    rows = {TrialStatus(one.name, "", one.config.model.frame, "", 1).row for one in trials}
    assert len(trials) == len({one.name for one in trials}) == 16
    assert max(len(one.name) for one in trials) <= MOST
    assert len(rows) == 8, "a row for each setting, over its seeds"


def test_a_tables_heading_names_files_and_metrics() -> None:
    text = "formation energy per atom, " + "as computed " * 40
    name, unit = task_name(f"{text} (eV/atom)")
    assert (len(name), unit) == (LONGEST_TASK, "eV/atom")
    name, unit = task_name(f"gap ({text})")
    assert (len(name), unit) == (LONGEST_TASK, "")
    with pytest.raises(UserError, match="has 500 characters, expected something like 'eV/atom'"):
        unit_token("eV" * 250)
    comparison = Comparison("a" * 100, name, unit, ())
    assert len(comparison.file_name) <= 150


def test_a_file_of_the_longest_name_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (MOST - 4) + ".csv")
    replace_text(path, "a")
    replace_text(path, "b")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["x" * 5000, "../..", "", "..", "a/b", "a\0b", "\ud800" * 100])
def test_a_plan_that_names_no_folder_is_damaged_there_alone(name: str, tmp_path: Path) -> None:
    good = TrialStatus("good", "sample", "max", "eV", 3)
    write_plan(tmp_path, [TrialStatus(name, "sample", "max", "eV", 3), good])
    summary = read_summary(tmp_path)
    assert [trial.name for trial in summary.trials] == ["good"]
    assert "is damaged in line 1" in summary.remarks[0]
