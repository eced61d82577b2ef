"""One trial with the real trainer: resuming, failing, what is recorded when."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crystalframer.atomic_files import replace_text
from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.runs.contents import EarlyStop
from crystalframer.runs.run_directory import RunDirectory, SupersededError
from crystalframer.runs.trial import TrainerFactory, Trial, TrialJob, TrialProgress, run_trial, snapshot_epochs
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.metrics import EpochResult
from crystalframer.training.trained_model import load_model
from crystalframer.training.trainer import Trainer
from tests.runs.memory_tracker import MemoryRun, MemoryTracker, repeatable


class Bench:
    """Runs a trial as often as needed, in one directory, with one tracker."""

    def __init__(self, trial: Trial, data: TaskData, folder: Path) -> None:
        self.trial = trial
        self.data = data
        self.directory = RunDirectory(folder / trial.name)
        self.runs: dict[str, MemoryRun] = {}

    def start(
        self, trainer: TrainerFactory = Trainer, checkpoint_seconds: float = 0.0, snapshots: int = 0
    ) -> Iterator[TrialProgress]:
        return run_trial(
            TrialJob(
                self.trial,
                self.directory,
                tags={"sweep": "tiny"},
                checkpoint_seconds=checkpoint_seconds,
                snapshots=snapshots,
            ),
            self.data,
            MemoryTracker(self.runs),
            trainer,
        )

    @property
    def run(self) -> MemoryRun:
        return self.runs[self.trial.name]

    def curves(self) -> dict[tuple[str, int], float]:
        return repeatable(self.run.metrics)

    def state(self) -> tuple[str, int]:
        state = self.directory.state()
        assert state is not None
        return state.state, state.epoch


@pytest.fixture
def bench(tiny_config: TrialConfig, tiny_data: TaskData, tmp_path: Path) -> Bench:
    """A trial that was never run."""
    return Bench(Trial("a-trial", tiny_config), tiny_data, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(tiny_config: TrialConfig, tiny_data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The same trial, run from start to end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(Trial("a-trial", tiny_config), tiny_data, tmp_path_factory.mktemp("uninterrupted"))
    list(bench.start())
    torch.set_num_threads(threads)
    return bench


def test_a_trial_records_what_the_analysis_reads(uninterrupted: Bench) -> None:
    run = uninterrupted.run
    assert run.status == "FINISHED"
    per_epoch = {"train/loss", "train/mae_eV_per_atom", "val/mae_eV_per_atom", "val/rmse_eV_per_atom"}
    per_epoch |= {"learning_rate", "seconds_per_epoch", "averaged"}
    final = {"test/mae_eV_per_atom", "test/rmse_eV_per_atom", "test/baseline_mae_eV_per_atom", "num_parameters"}
    final |= {"test/ms_per_material"}
    assert set(run.metrics) == {(name, step) for name in per_epoch for step in range(1, 7)} | {(n, 6) for n in final}
    assert [run.metrics["averaged", step] for step in range(1, 7)] == [0, 0, 0, 0, 1, 1]
    assert run.params["model.frame"] == "max"
    assert len(run.params) == len(uninterrupted.trial.config.to_flat_dict())
    assert run.tags["fingerprint"] == uninterrupted.trial.config.fingerprint()
    assert run.tags["dataset_fingerprint"] == uninterrupted.data.fingerprint
    assert {"sweep", "run_key", "unit", "kernel", "torch", "machine"} <= set(run.tags)
    assert set(run.artifacts) == {"model/checkpoint.pt", "config.yaml", "predictions/test.csv", "model_card.md"}
    lines = run.artifacts["predictions/test.csv"].decode().splitlines()
    errors = [abs(float(target) - float(prediction)) for _, target, prediction in (x.split(",") for x in lines[1:])]
    assert sum(errors) / len(errors) == pytest.approx(run.metrics["test/mae_eV_per_atom", 6], rel=1e-12)
    result = uninterrupted.directory.result()
    assert result is not None
    assert result["test_mae"] == run.metrics["test/mae_eV_per_atom", 6]
    assert uninterrupted.state() == ("done", 6)


@pytest.mark.parametrize("stops", [(1,), (3, 5), (6,)])
def test_stopped_and_resumed_ends_with_the_same_bits(
    uninterrupted: Bench, bench: Bench, stops: tuple[int, ...]
) -> None:
    for stop in stops:
        progress = bench.start(checkpoint_seconds=1e9)
        assert next(entry.epoch for entry in progress if entry.epoch == stop) == stop
        progress.close()  # type: ignore[attr-defined]
        assert bench.state() == ("stopped", stop)
        assert bench.run.status == "KILLED"
    list(bench.start())
    assert bench.curves() == uninterrupted.curves()
    assert bench.run.artifacts["predictions/test.csv"] == uninterrupted.run.artifacts["predictions/test.csv"]
    assert bench.run.status == "FINISHED"


def test_asked_to_stop_within_an_epoch_it_saves_and_goes_on_with_the_same_bits(
    uninterrupted: Bench, bench: Bench
) -> None:
    asked = iter([False, False, False, False, True])  # two steps an epoch: this is the first one of epoch 3
    reports = list(
        run_trial(
            TrialJob(bench.trial, bench.directory, tags={"sweep": "tiny"}, checkpoint_seconds=1e9),
            bench.data,
            MemoryTracker(bench.runs),
            Trainer,
            stop_requested=lambda: next(asked),
        )
    )
    assert [entry.epoch for entry in reports] == [1, 2]
    assert reports[-1].result is None
    assert bench.state() == ("stopped", 2)
    assert bench.run.status == "KILLED"
    assert read_checkpoint(bench.directory.checkpoint).progress.position == 1
    list(bench.start())
    assert bench.curves() == uninterrupted.curves()


def test_killed_within_an_epoch_it_goes_on_from_there(uninterrupted: Bench, bench: Bench) -> None:
    class DiesWithin(Trainer):
        def fit(self, after_step: Callable[[float], None] | None = None) -> Iterator[EpochResult]:
            def step(loss: float) -> None:
                assert after_step is not None
                after_step(loss)
                if (self.progress.epoch, self.progress.position) == (3, 1):
                    raise OSError("the machine is gone")

            yield from super().fit(step)

    with pytest.raises(OSError, match="the machine is gone"):
        list(bench.start(DiesWithin, checkpoint_seconds=0.0))
    progress = read_checkpoint(bench.directory.checkpoint).progress
    assert (progress.epoch, progress.position) == (3, 1)
    list(bench.start())
    assert bench.curves() == uninterrupted.curves()


def test_an_early_stop_is_tagged(bench: Bench) -> None:
    progress = bench.start(checkpoint_seconds=1e9)
    next(progress)
    bench.directory.stop_early(EarlyStop(1, 0.5, "others were better"))
    progress.close()  # type: ignore[attr-defined]
    assert bench.run.tags["stopped_early"] == "others were better"
    assert bench.directory.stopped_early() == EarlyStop(1, 0.5, "others were better")


def test_killed_after_writing_epochs_that_no_checkpoint_holds(uninterrupted: Bench, bench: Bench) -> None:
    class DiesAtFour(Trainer):
        def fit(self, after_step: Callable[[float], None] | None = None) -> Iterator[EpochResult]:
            for epoch in super().fit(after_step):
                if epoch.epoch == 2:
                    self.save(bench.directory.checkpoint)
                yield epoch
                if epoch.epoch == 4:
                    raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(bench.start(DiesAtFour, checkpoint_seconds=1e9))
    assert bench.state() == ("failed", 4)
    assert bench.run.status == "FAILED"
    assert "the disk is gone" in (bench.directory.path / "error.txt").read_text()
    assert [record.step for record in bench.directory.records()] == [1, 2, 3, 4]
    assert {step for _, step in bench.run.metrics} == set()  # nothing that a checkpoint of ours does not hold
    list(bench.start())
    assert bench.curves() == uninterrupted.curves()
    assert [record.step for record in bench.directory.records()] == [1, 2, 3, 4, 5, 6]


def test_snapshots_survive_stops_and_hold_what_the_checkpoint_held(uninterrupted: Bench, bench: Bench) -> None:
    directory, held = bench.directory, {}
    for stop in (1, 3, 5, 6):
        progress = bench.start(checkpoint_seconds=1e9, snapshots=3)
        for entry in progress:
            if entry.epoch % 2 == 0:
                held[entry.epoch] = weights(directory.checkpoint)
            if entry.epoch == stop:
                break
        progress.close()  # type: ignore[attr-defined]
    assert [path.name for path in directory.snapshots()] == ["epoch_0002.pt", "epoch_0004.pt", "epoch_0006.pt"]
    for epoch in (2, 4, 6):
        kept = weights(directory.snapshot(epoch))
        assert all(torch.equal(kept[name], value) for name, value in held[epoch].items()), epoch
    assert not torch.equal(held[4]["embedding.weight"], held[6]["embedding.weight"])
    assert load_model(directory.snapshot(6)).averaged
    assert directory.snapshot(6).stat().st_size < 0.6 * directory.checkpoint.stat().st_size  # names weigh more here
    list(bench.start(snapshots=3))
    assert bench.curves() == uninterrupted.curves()
    assert {name for name in bench.run.artifacts if "snapshots" in name} == {
        f"model/snapshots/{path.name}" for path in directory.snapshots()
    }


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights a file's model is evaluated with."""
    return dict(load_model(path).model.state_dict())


@pytest.mark.parametrize(
    ("epochs", "count", "expected"), [(7, 7, {1, 2, 3, 4, 5, 6, 7}), (2000, 4, {500, 1000, 1500, 2000}), (2, 5, {1, 2})]
)
def test_snapshots_are_evenly_spaced(epochs: int, count: int, expected: set[int]) -> None:
    assert snapshot_epochs(epochs, count) == expected
    assert snapshot_epochs(epochs, 0) == set()


def test_what_is_recorded_is_on_disk_first(bench: Bench) -> None:
    for progress in bench.start(checkpoint_seconds=0.0):
        if progress.result is None:
            recorded = max(step for _, step in bench.run.metrics)
            restored = Trainer(bench.trial.config, bench.data)
            restored.restore(bench.directory.checkpoint)
            assert len(restored.history) == recorded == progress.epoch


def test_a_finished_trial_only_reports_its_result(uninterrupted: Bench) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.directory.path.rglob("*.json*")}
    (progress,) = list(uninterrupted.start())
    assert progress.result == uninterrupted.directory.result()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_killed_between_the_result_and_the_marker(uninterrupted: Bench, bench: Bench) -> None:
    list(bench.start())
    (bench.directory.path / "done.json").unlink()
    metrics = dict(bench.run.metrics)
    list(bench.start())
    assert bench.run.metrics == metrics
    assert bench.curves() == uninterrupted.curves()
    assert bench.directory.result() is not None


def test_a_superseded_attempt_stops_at_its_next_epoch(bench: Bench) -> None:
    progress = bench.start()
    next(progress)
    replace_text(bench.directory.path / "attempt", "someone else")
    with pytest.raises(SupersededError):
        next(progress)
    assert bench.state() == ("running", 1)  # whose word it is to say failed
    assert bench.run.status == "RUNNING"


def test_a_users_mistake_ends_the_trial_with_its_sentence(bench: Bench) -> None:
    def forbids(trial: TrialConfig, data: TaskData, *, device: str) -> Trainer:
        raise UserError("the batch is too large: choose a smaller one")

    with pytest.raises(UserError, match="the batch is too large"):
        list(bench.start(forbids))
    state = bench.directory.state()
    assert state is not None
    assert (state.state, state.reason) == ("failed", "the batch is too large: choose a smaller one")
    assert bench.runs == {}


def test_settings_are_written_as_a_sweep_would_state_them(uninterrupted: Bench) -> None:
    path = uninterrupted.directory.path
    assert json.loads((path / "config.json").read_text())["settings"] == uninterrupted.trial.config.to_dict()
    assert "frame: max" in (path / "config.yaml").read_text()


def test_other_settings_are_refused(uninterrupted: Bench) -> None:
    config = replace(uninterrupted.trial.config, train=replace(uninterrupted.trial.config.train, seed=7))
    other = Bench(Trial("a-trial", config), uninterrupted.data, uninterrupted.directory.path.parent)
    with pytest.raises(UserError, match="holds a run of other settings"):
        list(other.start())
