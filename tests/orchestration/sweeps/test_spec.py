"""Sweep files: strict reading, names, order."""

import re
from pathlib import Path
from typing import Any

import pytest

from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.jobs import Resources
from crystalframer.orchestration.sweeps.spec import load_sweep
from tests.orchestration.conftest import ROOT, WriteSweep


def test_trials_are_all_combinations_named_and_ordered(write_sweep: WriteSweep) -> None:
    spec = load_sweep(write_sweep())
    trials = spec.trials()
    assert spec.name == "tiny"
    assert [trial.name.rpartition("-")[0] for trial in trials] == [
        "formation_energy-none-seed0",
        "formation_energy-max-seed0",
        "formation_energy-none-seed1",
        "formation_energy-max-seed1",
    ]
    assert [trial.name.rpartition("-")[2] for trial in trials] == [trial.config.fingerprint() for trial in trials]
    assert trials[1].config.train.epochs == 60
    assert trials[1].config.model.r_0 == 1.4


def test_settings_in_which_trials_differ_are_named(write_sweep: WriteSweep) -> None:
    spec = load_sweep(write_sweep(grid={"model.r_0": [1.4, 1.5], "train.seed": [0], "model.frame": ["max", "none"]}))
    assert spec.varied(spec.trials()) == ["model.frame", "model.r_0"]
    assert spec.varied([]) == []


def test_adding_values_renames_nothing(write_sweep: WriteSweep) -> None:
    before = [trial.name for trial in load_sweep(write_sweep()).trials()]
    grid = {"train.seed": [5, 0, 1], "model.frame": ["pca", "max", "none"]}
    after = [trial.name for trial in load_sweep(write_sweep(grid=grid)).trials()]
    assert len(after) == len(set(after)) == 9
    assert set(before) < set(after)


def test_the_files_in_the_repository_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = sorted((ROOT / "sweeps").glob("*.yaml"))
    assert {path.stem for path in paths} >= {"ablation_sample", "ablation_frames"}
    index = (ROOT / "sweeps" / "README.md").read_text(encoding="utf-8")
    assert all(path.name in index for path in paths)
    for path in [path for path in paths if not path.stem.startswith("hpo_")]:
        for model in re.findall(r"runs/\S+/checkpoint\.pt", path.read_text(encoding="utf-8")):
            (tmp_path / model).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / model).write_bytes(model.encode())  # stands for what an earlier sweep leaves
        names = [trial.name for trial in load_sweep(path).trials()]
        assert len(names) == len(set(names)) > 0


def test_transfer_starts_from_the_models_of_its_pretraining() -> None:
    trials = load_sweep(ROOT / "sweeps" / "mbj_pretraining.yaml").trials()
    text = (ROOT / "sweeps" / "mbj_transfer.yaml").read_text(encoding="utf-8")
    wanted = re.findall(r"runs/\S+/checkpoint\.pt", text)
    assert sorted(wanted) == sorted(f"runs/mbj_pretraining/{trial.name}/checkpoint.pt" for trial in trials)


def test_the_learning_curve_takes_equal_numbers_of_steps() -> None:
    trials = load_sweep(ROOT / "sweeps" / "mbj_learning_curve.yaml").trials()
    steps = {t.config.train.epochs * ((t.config.data.train_size or 14439) // t.config.train.batch_size) for t in trials}
    assert max(steps) < 1.01 * min(steps)


def test_a_search_file_is_named_as_one() -> None:
    with pytest.raises(UserError, match=r"this is a search; run it with `crystalframer search`"):
        load_sweep(ROOT / "sweeps" / "hpo_sample.yaml")


def test_cases_vary_together_with_their_preset(write_sweep: WriteSweep) -> None:
    cases = [
        {"data.dataset": "jarvis", "data.task": "e_hull", "train.preset": "jarvis"},
        {"data": {"dataset": "mp", "task": "bandgap"}, "train": {"preset": "mp"}},
    ]
    grid = {"cases": cases, "train.seed": [0, 1], "model.frame": ["none", "max"]}
    trials = load_sweep(write_sweep(base={}, grid=grid)).trials()
    assert [trial.name.rpartition("-")[0] for trial in trials[:5]] == [
        "jarvis-e_hull-none-seed0",
        "jarvis-e_hull-max-seed0",
        "mp-bandgap-none-seed0",
        "mp-bandgap-max-seed0",
        "jarvis-e_hull-none-seed1",
    ]
    assert [trial.config.train.epochs for trial in trials[:4]] == [2000, 2000, 800, 800]


def test_other_settings_appear_in_names(write_sweep: WriteSweep) -> None:
    grid = {"model.cutoff": [3.5, 4.0], "model.preset": ["default", "lightweight"]}
    names = [trial.name.rpartition("-")[0] for trial in load_sweep(write_sweep(base={}, grid=grid)).trials()]
    assert names == [
        "formation_energy-max-cutoff3.5-default-seed123",
        "formation_energy-max-cutoff3.5-lightweight-seed123",
        "formation_energy-max-cutoff4-default-seed123",
        "formation_energy-max-cutoff4-lightweight-seed123",
    ]


def test_overrides_replace_base_and_resources(write_sweep: WriteSweep) -> None:
    overrides = ["train.epochs=7", "resources.cpus_per_trial=2", "max_failures=0", "train.learning_rate=1.0e-3"]
    spec = load_sweep(write_sweep(), overrides)
    assert spec.resources == Resources(cpus_per_trial=2)
    assert spec.max_failures == 0
    assert {(trial.config.train.epochs, trial.config.train.learning_rate) for trial in spec.trials()} == {(7, 1e-3)}


def test_numbers_and_texts_follow_the_setting(tmp_path: Path) -> None:
    prose = "question: a\nexpectation: b\ncommand: c\nduration: 10 s\n"
    path = tmp_path / "plain.yaml"
    path.write_text(
        f"{prose}reference:\nbase: {{train.learning_rate: 5e-4}}\ngrid: {{data.dataset: [2024, no, 010]}}\n"
    )
    spec = load_sweep(path, ["train.weight_decay=1e-6", "train.seed=7"])
    configs = [trial.config for trial in spec.trials()]
    assert [config.data.dataset for config in configs] == ["2024", "no", "010"]
    assert {(c.train.learning_rate, c.train.weight_decay, c.train.seed) for c in configs} == {(5e-4, 1e-6, 7)}
    assert [trial.name.split("-")[0] for trial in spec.trials()] == ["2024", "no", "010"]
    cutoffs = load_sweep(path, ["grid.model.cutoff=[6, 5e-1]"]).trials()
    assert {re.findall("cutoff([0-9.]+)", trial.name)[0] for trial in cutoffs} == {"6", "0.5"}


def test_a_file_names_itself(write_sweep: WriteSweep) -> None:
    with pytest.raises(UserError, match="unknown field 'name'; an experiment is called as its file"):
        load_sweep(write_sweep(), ["name=other"])
    path = write_sweep()
    path.write_text(f"name: other\n{path.read_text()}")
    with pytest.raises(UserError, match="unknown field 'name'; an experiment is called as its file"):
        load_sweep(path)


def test_fields_are_set_like_settings(write_sweep: WriteSweep) -> None:
    overrides = ["record.seeds=[1]", "budget.hours=5e-1", "resources.gpus_per_trial=auto", "grid.train.seed=[7]"]
    spec = load_sweep(write_sweep(), overrides)
    assert spec.record.seeds == (1,)
    assert spec.budget.hours == 0.5
    assert spec.resources == Resources(gpus_per_trial=1.0, measured=True)
    assert {trial.config.train.seed for trial in spec.trials()} == {7}


def test_a_file_in_another_encoding_is_one_sentence(write_sweep: WriteSweep) -> None:
    path = write_sweep()
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(UserError, match=r"tiny.yaml: is no text in UTF-8; save it in that encoding$"):
        load_sweep(path)


def test_snapshots_are_kept_of_the_seeds_named_and_change_no_trial(write_sweep: WriteSweep) -> None:
    plain = load_sweep(write_sweep())
    spec = load_sweep(write_sweep(record={"snapshots": 7, "seeds": [1]}), ["record.snapshots=3"])
    assert [trial.name for trial in spec.trials()] == [trial.name for trial in plain.trials()]
    assert {(t.config.train.seed, spec.record.snapshots_of(t.config)) for t in spec.trials()} == {(0, 0), (1, 3)}
    assert {plain.record.snapshots_of(trial.config) for trial in plain.trials()} == {0}


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"gird": {}}, r"unknown field 'gird' \(did you mean 'grid'\?\)"),
    "no question": ({"question": None}, r"field 'question': got None, expected a sentence"),
    "unknown setting": ({"base": {"model": {"cutof": 3.0}}}, r"'model.cutof' \(did you mean 'model.cutoff'"),
    "unknown section": ({"base": {"modle": {"cutoff": 3.0}}}, r"unknown setting in base: 'modle'"),
    "unknown grid key": ({"grid": {"model.frames": ["max"]}}, r"'model.frames' \(did you mean 'model.frame'"),
    "unknown frame": ({"grid": {"model.frame": ["maxx"]}}, r"unknown model.frame 'maxx' \(did you mean 'max'\?\)"),
    "unknown preset": ({"base": {"train.preset": "jarvys"}}, r"unknown train.preset 'jarvys' \(did you mean 'jarvis'"),
    "unknown case key": ({"grid": {"cases": [{"data.tusk": "bandgap"}]}}, r"'data.tusk' \(did you mean 'data.task'"),
    "wrong type": ({"base": {"train.epochs": "ten"}}, r"setting 'train.epochs': got 'ten'"),
    "out of range": ({"base": {"train.epochs": 0}}, r"'train.epochs': got 0, expected a whole number, at least 1"),
    "scalar in grid": ({"grid": {"train.seed": 0}}, r"grid.train.seed: got 0, expected a list"),
    "empty list in grid": ({"grid": {"train.seed": []}}, r"grid.train.seed: got \[\], expected a list"),
    "same value twice": ({"grid": {"train.seed": [0, 0]}}, r"lists the same trial twice"),
    "base and grid": ({"base": {"train.seed": 3}}, r"'train.seed' is stated in base and in grid"),
    "nested and dotted": ({"base": {"train": {"seed": 1}, "train.seed": 2}}, r"'train.seed' is stated twice in base"),
    "grid and cases": (
        {"grid": {"train.seed": [0], "cases": [{"train.seed": 1}]}},
        r"'train.seed' is stated in grid and in grid.cases",
    ),
    "unknown resource": ({"resources": {"cpu_per_trial": 1}}, r"'cpu_per_trial' \(did you mean 'cpus_per_trial'"),
    "half a core": ({"resources": {"cpus_per_trial": 0.5}}, r"resources.cpus_per_trial: got 0.5, expected a whole"),
    "no core": ({"resources": {"cpus_per_trial": 0}}, r"resources.cpus_per_trial: got 0, expected a whole"),
    "negative GPUs": ({"resources": {"gpus_per_trial": -1}}, r"resources.gpus_per_trial: got -1"),
    "negative retries": ({"max_failures": -1}, r"max_failures: got -1, expected a whole number, at least 0"),
    "unknown record": ({"record": {"snapshot": 3}}, r"'snapshot' \(did you mean 'snapshots'"),
    "negative snapshots": ({"record": {"snapshots": -1}}, r"record.snapshots: got -1, expected a whole number"),
    "seeds no list": ({"record": {"snapshots": 1, "seeds": 0}}, r"record.seeds: got 0, expected a list"),
    "hours in base 60": (
        {"budget": {"hours": "1:30"}},
        r"budget.hours: got '1:30', expected a number .*in hours: 1.5\)",
    ),
    "a day in base 60": ({"budget": {"hours": "24:00:00"}}, r"got '24:00:00', expected a number \(.* in hours: 24\)"),
    "octal": ({"max_failures": "010"}, r"max_failures: got '010', expected a whole number \(.*leading zero: 10\)"),
    "half a GPU more": (
        {"resources": {"gpus_per_trial": 1.5}},
        r"got 1.5, expected a whole number, a fraction below 1",
    ),
    "no price": ({"budget": {"max_cost": 3}}, r"budget.max_cost: needs budget.cost_per_hour"),
    "endless": ({"budget": {"hours": float("inf")}}, r"budget.hours: got '.inf', expected a number"),
    "a list for words": ({"question": ["a"]}, r"field 'question': got \['a'\], expected text"),
    "blank words": ({"question": " "}, r"field 'question': got ' ', expected a sentence"),
    "too many trials": (
        {"grid": {"train.seed": [*range(1000)], "train.decay_steps": [*range(1, 1001)]}},
        r"grid': 1000 × 1000 = 1,000,000 trials, expected at most 20,000",
    ),
    "a model too wide": ({"base": {"model.width": 200000}}, r"'model.width': got 200000, expected .*, at most 4,096"),
    "long text": ({"base": {"train.epochs": 100000 * "x"}}, r"'train.epochs': got 'x+\.\.\.x+', expected a whole"),
    "long key": ({"base": {100000 * "x": 1}}, r"unknown setting in base: 'x+\.\.\.x+'"),
    "base is a list": ({"base": [1]}, r"base: got \[1\], expected a mapping"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(write_sweep: WriteSweep, mistake: str) -> None:
    fields, expected = MISTAKES[mistake]
    with pytest.raises(UserError, match=expected) as caught:
        load_sweep(write_sweep(**fields)).trials()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "expected KEY=VALUE"),
        ("train.epoch=3", r"'train.epoch' \(did you mean 'train.epochs'"),
        ("train.seed=3", "'train.seed' is stated in base and in grid"),
        ("resources.cpus=3", "unknown field in resources: 'cpus'"),
        ("resources.cpus_per_trial=many", "got 'many', expected a whole number"),
    ],
)
def test_mistakes_in_overrides_are_named(write_sweep: WriteSweep, override: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_sweep(write_sweep(), [override])


def test_all_that_is_missing_is_said_at_once(write_sweep: WriteSweep) -> None:
    path = write_sweep(question=None, expectation=None)
    with pytest.raises(UserError, match="fields question, expectation: got none of them, expected a sentence each"):
        load_sweep(path)


def test_what_runs_it_and_how_long_need_not_be_said(write_sweep: WriteSweep) -> None:
    spec = load_sweep(write_sweep(command=None, duration=None))
    assert (spec.command, spec.duration) == ("", "")
    assert len(spec.trials()) == 4


def test_a_repeated_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("question: a\nbase:\n  train.epochs: 1\n  train.epochs: 2\n")
    with pytest.raises(UserError, match=r"twice.yaml: key 'train.epochs' is stated twice, on lines 3 and 4"):
        load_sweep(path)


@pytest.mark.parametrize(
    ("text", "expected"), [("a: [1", "not valid YAML"), ("", "expected a mapping"), ("7", "got 7")]
)
def test_what_is_no_sweep_is_an_error(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        load_sweep(path)


def test_a_missing_file_lists_its_neighbours(write_sweep: WriteSweep) -> None:
    path = write_sweep()
    with pytest.raises(UserError, match=r"no sweep file .*did you mean '.*tiny.yaml'"):
        load_sweep(path.with_name("tinny.yaml"))


def test_a_name_that_cannot_be_a_folder_is_an_error(write_sweep: WriteSweep) -> None:
    with pytest.raises(UserError, match="the stem names the experiment"):
        load_sweep(write_sweep("a sweep"))
