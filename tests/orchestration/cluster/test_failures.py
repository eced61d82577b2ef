"""Failures are told apart, corrected within bounds, given up with one sentence; real faults where they can be had."""

import errno
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError, one_line
from crystalframer.orchestration.cluster.dispatcher import Dispatcher
from crystalframer.orchestration.cluster.failures import (
    LOST_NODE,
    AnythingElse,
    Failure,
    FullDisk,
    LostNode,
    OutOfMemory,
    standard_policies,
)
from crystalframer.orchestration.cluster.jobs import JobList
from crystalframer.orchestration.sweeps.screen import Screen
from crystalframer.orchestration.tracking.buffered import PatientTracker
from crystalframer.orchestration.tracking.client import is_away
from crystalframer.orchestration.tracking.experiment import MlflowExperiment, MlflowTracker
from crystalframer.orchestration.tracking.server import LocalMlflowServer
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import TrialStatus
from crystalframer.runs.tracker import StepMetrics
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.optimizer import TrainingDivergedError
from crystalframer.training.trainer import Trainer
from tests.fixtures.disks import fill, mounted
from tests.orchestration.processes import descendants
from tests.orchestration.tracking.test_tracking import read_mlflow
from tests.runs.memory_tracker import MemoryTracker

DIED = Failure("its worker process died", worker_died=True)


class Clock:
    """Time that passes when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def job(name: str, **changes: object) -> TrialJob:
    plain = TrialJob(Trial(name, build_trial({})), RunDirectory(Path()), cpus=1)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def trials() -> list[Trial]:
    """Three trials."""
    return [Trial(f"t{seed}", build_trial({"train.seed": seed})) for seed in range(3)]


def dispatcher(trials: list[Trial], clock: Clock, *, gpus: float = 0.0, max_failures: int = 2) -> Dispatcher:
    screen = Screen(Console(quiet=True), {t.name: TrialStatus(t.name, "", "", "eV", 10) for t in trials})
    source = JobList(trials, lambda trial: job(trial.name, gpus=gpus))
    return Dispatcher(source, standard_policies(max_failures), screen.change, lambda _: None, clock=clock)


def test_a_worker_that_dies_is_replaced_so_often_and_no_oftener(trials: list[Trial]) -> None:
    sweep = dispatcher(trials, Clock())
    for _ in range(3):
        taken = sweep.next_job()
        assert taken is not None
        assert taken.name == "t0"  # before those that never started
        sweep.failed("t0", DIED)
    assert sweep.outcome.failed == {"t0": "its worker process died (after 2 new attempts)"}
    assert sweep.outcome.corrections == {AnythingElse.name: 2}
    following = sweep.next_job()
    assert following is not None
    assert following.name == "t1"


def test_a_lost_machine_does_not_count_as_a_failure_of_the_trial(trials: list[Trial]) -> None:
    sweep = dispatcher(trials, Clock(), max_failures=1)
    for _ in range(20):
        assert sweep.next_job() is not None
        sweep.failed("t0", Failure(LOST_NODE, worker_died=True))
    assert sweep.outcome.failed == {}
    assert sweep.outcome.corrections == {LostNode.name: 20}


def test_out_of_memory_gets_a_larger_share_of_the_gpu_then_gives_up(trials: list[Trial]) -> None:
    clock = Clock()
    sweep = dispatcher(trials[:1], clock, gpus=0.3, max_failures=5)
    shares = []
    while not sweep.finished:
        taken = sweep.next_job()
        if taken is None:
            clock.now += 1.0
            continue
        shares.append(taken.gpus)
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        sweep.failed("t0", Failure.of(error, one_line(error)))
    assert shares == [0.3, 0.6, 1.0]
    assert sweep.outcome.failed["t0"].startswith("OutOfMemoryError: CUDA out of memory")


def test_out_of_memory_on_the_processor_leaves_fewer_neighbours(trials: list[Trial]) -> None:
    clock = Clock()
    sweep = dispatcher(trials, clock)
    assert [sweep.next_job() is not None for _ in range(3)] == [True] * 3
    sweep.failed("t0", Failure.of(MemoryError(), "MemoryError"))
    clock.now += 60.0
    assert sweep.next_job() is None  # two run, and no third one beside them
    sweep.stopped("t1")
    again = sweep.next_job()
    assert again is not None
    assert again.name == "t0"


def test_a_real_refusal_of_memory_is_told_apart() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert OutOfMemory().detects(Failure.of(refused.value, one_line(refused.value)))
    assert not FullDisk().detects(Failure.of(refused.value, one_line(refused.value)))


def test_what_would_repeat_is_given_up_at_once(trials: list[Trial]) -> None:
    sweep = dispatcher(trials, Clock())
    for name, error in (("t0", TrainingDivergedError("nan")), ("t1", UserError("no such task; name another"))):
        sweep.next_job()
        sweep.failed(name, Failure.of(error, one_line(error)))
    assert sweep.outcome.failed == {"t0": "TrainingDivergedError: nan", "t1": "no such task; name another"}


def test_an_absurd_learning_rate_diverges_with_one_sentence(
    tiny_config: TrialConfig, tiny_data: TaskData, tmp_path: Path
) -> None:
    config = replace(tiny_config, train=replace(tiny_config.train, learning_rate=1e30, kernel="reference"))
    directory = RunDirectory(tmp_path / "a-trial")
    with pytest.raises(TrainingDivergedError, match="training diverged") as diverged:
        list(run_trial(TrialJob(Trial("a-trial", config), directory), tiny_data, MemoryTracker({}), Trainer))
    failure = Failure.of(diverged.value, one_line(diverged.value))
    policy = next(policy for policy in standard_policies(3) if policy.detects(failure))
    assert policy.correct(failure, job("a-trial"), 0) is None
    state = directory.state()
    assert state is not None
    assert state.state == "failed"
    assert "\n" not in state.reason


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "300k") as there:
        if not there:
            pytest.skip("needs to mount a file system, which is not permitted here")
        yield folder


def test_a_full_disk_is_waited_for_and_the_trial_goes_on(
    tiny_config: TrialConfig, tiny_data: TaskData, small_disk: Path
) -> None:
    trial, directory = Trial("a-trial", tiny_config), RunDirectory(small_disk / "a-trial")

    def attempt() -> None:
        list(run_trial(TrialJob(trial, directory, checkpoint_seconds=0.0), tiny_data, MemoryTracker({}), Trainer))

    ballast = small_disk / "ballast"
    progress = run_trial(TrialJob(trial, directory, checkpoint_seconds=0.0), tiny_data, MemoryTracker({}), Trainer)
    next(progress)
    fill(ballast)
    with pytest.raises((OSError, RuntimeError)) as full:
        list(progress)
    failure = Failure.of(full.value, one_line(full.value))
    assert FullDisk().detects(failure), failure
    policy = next(policy for policy in standard_policies(3) if policy.detects(failure))
    waits = [policy.correct(failure, job("a-trial"), times) for times in range(FullDisk.most + 1)]
    assert [wait.wait_seconds for wait in waits[:3] if wait is not None] == [10.0, 20.0, 40.0]
    assert waits[-1] is None
    ballast.unlink()
    attempt()
    result = directory.result()
    assert result is not None
    assert [record.step for record in directory.records()] == list(range(1, tiny_config.train.epochs + 1))


def test_a_limit_on_file_sizes_counts_as_a_full_disk(tmp_path: Path) -> None:
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, former[1]))
    try:
        with pytest.raises(OSError) as limited:
            (tmp_path / "file").write_bytes(b"0" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)
    assert limited.value.errno == errno.EFBIG
    assert FullDisk().detects(Failure.of(limited.value, "OSError: too large"))


def test_causes_are_looked_into() -> None:
    outer = RuntimeError("the writer failed")
    outer.__context__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    failure = Failure.of(outer, "RuntimeError: the writer failed")
    assert FullDisk().detects(failure)
    assert Failure(**asdict(failure)) == failure  # as a worker sends it


@pytest.mark.slow
def test_a_tracking_server_that_is_killed_and_comes_back_lacks_nothing(tmp_path: Path) -> None:
    with LocalMlflowServer(tmp_path) as server:
        server.wait_until_ready()
        experiment = MlflowExperiment(server.uri, "away")
        tracker = PatientTracker(MlflowTracker(server.uri, experiment.id), is_away, patience=60.0, first_wait=0.2)
        tracker.start("a-trial", {"train.epochs": 20}, {"sweep": "away"})
        for step in range(1, 21):
            if step == 5:
                end_group_of(server)
            if step == 12:
                server.revive()
                server.wait_until_ready()
                time.sleep(0.5)
            started = time.monotonic()
            tracker.log_metrics([StepMetrics(step, step, {"val/mae_eV": 1.0 / step})])
            assert time.monotonic() - started < 30  # training goes on
        tracker.finish("FINISHED")
        assert tracker.behind == 0
        run = read_mlflow(server.uri, experiment.id, artifacts=False)["a-trial"]
        assert run.status == "FINISHED"
        assert {step for _, step in run.metrics} == set(range(1, 21))


@pytest.mark.slow
def test_a_tracking_server_that_stands_still_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with LocalMlflowServer(tmp_path) as server:
        server.wait_until_ready()
        experiment = MlflowExperiment(server.uri, "still")
        tracker = PatientTracker(MlflowTracker(server.uri, experiment.id), is_away, patience=60.0, first_wait=0.2)
        tracker.start("a-trial", {}, {"sweep": "still"})
        family = [server._process.pid, *descendants(server._process.pid)]
        for number, stop in enumerate((signal.SIGSTOP, signal.SIGCONT)):
            for pid in family:
                os.kill(pid, stop)
            for step in range(1 + 20 * number, 21 + 20 * number):
                tracker.log_metrics([StepMetrics(step, step, {"val/mae_eV": 1.0 / step})])
            assert tracker.behind or stop == signal.SIGCONT
        tracker.finish("FINISHED")
        assert tracker.behind == 0
        run = read_mlflow(server.uri, experiment.id, artifacts=False)["a-trial"]
        assert sorted(step for _, step in run.metrics) == list(range(1, 41))


def test_a_server_that_does_not_answer_costs_a_training_a_tenth_of_its_time() -> None:
    asked = []

    class Hangs(MemoryTracker):
        def log_metrics(self, steps: object) -> None:
            asked.append(time.monotonic())
            time.sleep(0.1)
            raise ConnectionError("no answer")

    tracker = PatientTracker(Hangs({}), lambda error: isinstance(error, ConnectionError), first_wait=0.001)
    until = time.monotonic() + 0.9
    while time.monotonic() < until:
        tracker.log_metrics([StepMetrics(1, 1, {"loss": 1.0})])
        time.sleep(0.01)
    assert len(asked) == 1


def test_a_server_that_stays_away_costs_a_trial_nothing_but_patience(tmp_path: Path) -> None:
    gone = PatientTracker(MlflowTracker("http://127.0.0.1:9", "1"), is_away, patience=0.5, first_wait=0.1)
    gone.start("a-trial", {}, {})
    gone.log_metrics([StepMetrics(1, 1, {"loss": 1.0})])
    gone.finish("FINISHED")
    assert gone.behind == 3


def test_other_errors_of_a_tracker_are_not_borne_with(tmp_path: Path) -> None:
    class Refuses(MemoryTracker):
        def set_tags(self, tags: object) -> None:
            raise ValueError("no such tag")

    tracker = PatientTracker(Refuses({}), is_away)
    with pytest.raises(ValueError, match="no such tag"):
        tracker.set_tags({})


def end_group_of(server: LocalMlflowServer) -> None:
    """Kill -9 the server, its watchdog and everything they started."""
    process = server._process
    for pid in (*descendants(process.pid), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
