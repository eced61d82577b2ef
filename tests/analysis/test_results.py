"""What counts as a result: finished, current trials, each once."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from analysis.comparison import Row, compare
from analysis.results import HISTORY, parse_arguments, read_results, read_sweep
from crystalframer.commands.sweep import _analyse
from crystalframer.config import FRAMES
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from tests.analysis.conftest import EPOCHS, SWEEP, Store


def test_only_finished_current_trials_count_and_the_others_are_named(store: Store) -> None:
    store.add("max", 0, test_mae=0.4)
    store.add("max", 1, test_mae=0.1, status="FAILED")
    store.add("none", 0, test_mae=0.1, status="RUNNING")
    store.add("pca", 0, test_mae=0.1, status="KILLED")
    store.add("max", 2, test_mae=0.1, current=False)

    results = read_sweep(store.tracking_uri, SWEEP)

    assert [(t.config.model.frame, t.config.train.seed, t.test_mae) for t in results.trials] == [("max", 0, 0.4)]
    reasons = {entry.split("-")[1] + entry.split("-")[2]: entry.split(": ")[1] for entry in results.left_out}
    assert reasons == {
        "maxseed1": "failed",
        "maxseed2": "not in the sweep as its file now reads",
        "noneseed0": "running",
        "pcaseed0": "killed",
    }


def test_a_trial_is_read_as_it_was_recorded(store: Store) -> None:
    store.add("none", 3, test_mae=0.25, settings={"train.learning_rate": 1e-05})

    (trial,) = read_sweep(store.tracking_uri, SWEEP).trials

    assert trial.config.model.frame == "none"  # and not None
    assert trial.config.train.learning_rate == 1e-05
    assert trial.config.data.val_size is None
    assert (trial.unit, trial.baseline_mae, trial.num_parameters) == ("eV/atom", 1.0, 951821)
    assert trial.val_mae == pytest.approx(0.25 * (1 + 1 / EPOCHS))
    assert trial.history.index.tolist() == list(range(1, EPOCHS + 1))
    assert trial.history["train_loss"].tolist() == pytest.approx([0.9 / epoch for epoch in range(1, EPOCHS + 1)])
    assert trial.history["averaged"].sum() == 2


def test_a_data_set_called_like_a_number_keeps_its_name(store: Store) -> None:
    store.add("max", 0, settings={"data.dataset": "2024", "data.task": "1e3"})

    (trial,) = read_sweep(store.tracking_uri, SWEEP).trials

    assert (trial.config.data.dataset, trial.config.data.task) == ("2024", "1e3")
    assert (trial.config.train.seed, trial.config.model.cutoff) == (0, 8.0)


def test_a_finished_trial_without_its_test_error_is_left_out(store: Store) -> None:
    store.add("max", 0)
    run_id = store.add("max", 1, status="RUNNING")
    store.client.set_terminated(run_id)

    results = read_sweep(store.tracking_uri, SWEEP)

    assert len(results.trials) == 1
    assert "incomplete record, no test/mae_eV_per_atom" in results.left_out[0]


def test_a_trial_recorded_twice_counts_once(store: Store) -> None:
    store.add("max", 0, key="twin")
    store.add("max", 0, key="twin")
    store.add("max", 1, test_mae=0.7)
    results = read_sweep(store.tracking_uri, SWEEP)
    assert [trial.test_mae for trial in results.trials] == [0.7, 0.5]
    assert results.left_out == ("twin: recorded twice, the later record says the same",)


def test_two_records_that_disagree_are_an_error(store: Store) -> None:
    store.add("max", 0, key="twin")
    store.add("max", 0, key="twin", test_mae=0.4)
    with pytest.raises(UserError, match=r"trial twin more than once, with test MAE 0.5 and 0.4; delete"):
        read_sweep(store.tracking_uri, SWEEP)


def test_a_finished_trial_that_lacks_epochs_is_left_out(store: Store) -> None:
    store.add("max", 0)
    store.add("max", 1, recorded_epochs=3)
    results = read_sweep(store.tracking_uri, SWEEP)
    assert len(results.trials) == 1
    assert f"incomplete record, 3 of {EPOCHS} epochs" in results.left_out[0]


def test_predictions_that_belong_to_another_run_are_refused(store: Store) -> None:
    store.add("max", 0, test_mae=0.5, predictions={"a": (1.0, 1.5), "b": (2.0, 1.5)})
    store.add("max", 1, test_mae=0.4, predictions={"a": (1.0, 1.5), "b": (2.0, 1.5)})
    store.add("none", 0)
    first, second, third = read_sweep(store.tracking_uri, SWEEP, store.runs).trials
    table = first.predictions()
    assert table is not None
    assert table.index.tolist() == ["a", "b"]
    with pytest.raises(UserError, match=r"gives a test MAE of 0.5, but MLflow recorded 0.4 for .*run the trial again"):
        second.predictions()
    assert third.predictions() is None


@pytest.mark.parametrize("content", [b"", b"id,target\na,1.0\n", b"\xff\xfe", b"id,target,prediction\na,1.0,much\n"])
def test_damaged_predictions_are_named(store: Store, content: bytes) -> None:
    store.add("max", 0, test_mae=0.5, predictions={"a": (1.0, 1.5)})
    (path,) = store.runs.glob("toy/*/predictions/test.csv")
    path.write_bytes(content)
    (trial,) = read_sweep(store.tracking_uri, SWEEP, store.runs).trials
    with pytest.raises(UserError, match=r"test.csv is damaged \(.*\); restore it, or run the trial again"):
        trial.predictions()


def test_a_stale_twin_is_no_duplicate(store: Store) -> None:
    store.add("max", 0, key="twin")
    store.add("max", 0, key="twin", current=False)
    assert len(read_sweep(store.tracking_uri, SWEEP).trials) == 1


def test_more_runs_than_a_page_holds_are_all_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        store.add("max", seed)
    monkeypatch.setattr("crystalframer.orchestration.tracking.client.PAGE", 2)
    assert len(read_sweep(store.tracking_uri, SWEEP).trials) == 3


def test_progress_says_how_many_trials_are_expected(store: Store) -> None:
    store.add("max", 0)
    assert read_sweep(store.tracking_uri, SWEEP).progress() == "1 trial finished"
    store.client.set_experiment_tag(store.experiment_id, "num_trials", "12")
    assert read_sweep(store.tracking_uri, SWEEP).progress() == "1 of 12 trials finished"


def test_no_results_names_the_command_that_makes_them(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no finished trials of the sweep 'toy'.*run `crystalframer sweep toy` first"):
        read_sweep(store.tracking_uri, SWEEP)
    with pytest.raises(UserError, match=r"did you mean 'toy'\?.*first"):
        read_sweep(store.tracking_uri, "tox")
    absent = parse_arguments("", ["--sweep", SWEEP, "--runs", str(tmp_path / "elsewhere")])
    with pytest.raises(UserError, match=r"elsewhere/mlflow.db: run `crystalframer sweep"):
        read_results(absent)
    assert not (tmp_path / "elsewhere").exists()


def test_an_unreachable_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"cannot (read|use) MLflow at http://127.0.0.1:9: .*refused"):
        read_sweep("http://127.0.0.1:9", SWEEP)


def test_one_row_never_mixes_data(store: Store) -> None:
    store.add("max", 0, tags={"dataset_fingerprint": "old"})
    store.add("max", 1, tags={"dataset_fingerprint": "new"})
    with pytest.raises(UserError, match="trained on different data"):
        compare(read_sweep(store.tracking_uri, SWEEP))


def test_settings_that_vary_make_rows_of_their_own(store: Store) -> None:
    lightweight = {"model.preset": "lightweight"}
    for seed in (0, 1):
        store.add("none", seed)
        store.add("max", seed)
        store.add("max", seed, settings=lightweight)
        store.add("max", seed, settings={**lightweight, "model.cutoff": 6.0})

    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))

    labels = [row.label for row in comparison.rows if row.trials]
    assert labels == [
        "none (Crystalformer), cutoff 8.0",
        "max, cutoff 8.0",
        "max, lightweight, cutoff 6.0",
        "max, lightweight, cutoff 8.0",
    ]
    assert {len(row.trials) for row in comparison.rows if row.trials} == {2}
    assert comparison.common("model.cutoff") == "varies"


def test_what_all_rows_share_is_said_once(store: Store) -> None:
    lightweight = {"model.preset": "lightweight"}
    store.add("max", 0, settings=lightweight)
    store.add("max", 0, settings={**lightweight, "model.cutoff": 6.0})
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
    assert [row.label for row in comparison.finished] == ["max, cutoff 6.0", "max, cutoff 8.0"]
    assert [row.name for row in comparison.finished] == ["max, lightweight, cutoff 6.0", "max, lightweight, cutoff 8.0"]
    assert comparison.title.endswith(", formation_energy, lightweight")
    assert comparison.heading.endswith(", formation energy, lightweight")
    store.add("pca", 0)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
    assert "lightweight" not in comparison.title
    assert {row.label: row.name for row in comparison.finished} == {
        name: name for name in ("PCA, cutoff 8.0", "max, lightweight, cutoff 6.0", "max, lightweight, cutoff 8.0")
    }


def test_rows_are_named_by_the_fewest_settings_that_tell_them_apart(store: Store) -> None:
    published = {"train.learning_rate": 1.2e-3, "train.decay_steps": 1500}
    short = {"train.schedule": "one_cycle", "train.learning_rate": 1.5e-3, "train.average_epochs": 0}
    store.add("max", 0, settings=published)
    store.add("max", 0, settings=short)
    store.add("pca", 0, settings=published)

    def rows() -> list[Row]:
        (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
        return comparison.finished

    assert [row.label for row in rows()] == [
        "PCA, schedule inverse_sqrt",
        "max, schedule inverse_sqrt",
        "max, schedule one_cycle",
    ]
    assert rows()[2].unnamed == "learning_rate 0.0015, decay_steps 4000.0, average_epochs 0"
    store.add("pca", 0, settings={**short, "train.learning_rate": 1e-3})  # now the schedule alone does not suffice
    assert [row.label for row in rows()] == [
        "PCA, learning_rate 0.001",
        "PCA, learning_rate 0.0012",
        "max, learning_rate 0.0012",
        "max, learning_rate 0.0015",
    ]


def test_only_frames_that_the_sweep_asks_for_have_empty_rows(store: Store) -> None:
    store.add("max", 0, key="a")
    assert len(compare(read_sweep(store.tracking_uri, SWEEP))[0].rows) == len(FRAMES)  # as recorded before it was told
    MlflowExperiment(store.tracking_uri, SWEEP).mark_current({"a", "b"}, "Why?", frames={"max", "none"})
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
    assert [(row.frame, len(row.trials)) for row in comparison.rows] == [("none", 0), ("max", 1)]


def test_the_table_and_the_curves_of_a_sweep_read_its_results_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        store.add("max", seed)
    asked: list[str] = []
    ask = MlflowClient.get_metric_history

    def counted(client: MlflowClient, run_id: str, key: str) -> list[Metric]:
        asked.append(run_id)
        return ask(client, run_id, key)

    monkeypatch.setattr(MlflowClient, "get_metric_history", counted)
    files = _analyse(SWEEP, store.runs, None, tmp_path / "output")
    assert {path.suffix for path in files} == {".md", ".csv", ".tex", ".html", ".png"}
    assert len(asked) == 3 * len(HISTORY)
