"""What became of every trial, read from the folder alone; budgets, estimates, the status program, the report."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from crystalframer.atomic_files import locked
from crystalframer.config import DataConfig
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.gpu_share import MeasuredJobs, gpu_share, trials_per_gpu
from crystalframer.orchestration.cluster.jobs import JobList, Resources
from crystalframer.orchestration.sweeps.estimates import Pace, describe_sweep
from crystalframer.resolving import build_trial
from crystalframer.runs.budget import ALIVE_SECONDS, LOCK, Budget, DriverState, Heartbeat, read_driver
from crystalframer.runs.contents import EarlyStop, TrialResult
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import Summary, TrialStatus, append_plan, read_summary, write_plan, write_report
from crystalframer.runs.tracker import StepMetrics
from crystalframer.runs.trial import Trial, TrialJob, TrialProgress
from pipelines.status import main as status

ROOT = Path(__file__).parents[2]
GIB = 1024**3
RESULT: TrialResult = {
    "trial": "finished",
    "unit": "eV",
    "val_mae": 0.1,
    "test_mae": 0.2,
    "test_rmse": 0.3,
    "baseline_mae": 0.8,
    "tags": {},
    "final": {"step": 10, "time_ms": 1, "values": {"num_parameters": 100.0}},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep with a trial of every standing, under a driver that seems to live."""
    folder = tmp_path / "asweep"
    folder.mkdir()
    names = ("finished", "early", "broken", "busy", "untouched")
    write_plan(folder, (TrialStatus(name, "sample formation_energy", "max", "eV", 10) for name in names))
    config = build_trial({"train.epochs": 10, "train.average_epochs": 0})
    for name in names[:4]:
        with RunDirectory(folder / name).attempt(config, "data") as attempt:
            for epoch in range(1, 11 if name == "finished" else 3):
                values = {"val/mae_eV": 0.5 / epoch, "seconds_per_epoch": 2.0}
                attempt.append(StepMetrics(epoch, round(time.time() * 1000), values))
            attempt.write_state("running", 2)
            if name == "finished":
                attempt.write_result(RESULT)
            if name == "broken":
                attempt.write_state("failed", 2, "OSError: no space left")
    RunDirectory(folder / "early").stop_early(EarlyStop(2, 0.25, "not among the best"))
    Heartbeat(folder, Budget(cost_per_hour=3.0)).tick(["busy"], {"broken": "OSError: no space left"})
    return folder


def standings_of(folder: Path) -> dict[str, str]:
    return {trial.name: trial.standing for trial in read_summary(folder).trials}


def trial_of(folder: Path, name: str) -> TrialStatus:
    (found,) = [trial for trial in read_summary(folder).trials if trial.name == name]
    return found


def set_driver(folder: Path, **changes: Any) -> None:
    state, _ = read_driver(folder)
    (folder / "driver.json").write_text(json.dumps(asdict(replace(state, **changes))))


def test_every_standing_is_told(sweep: Path) -> None:
    expected = {"finished": "done", "early": "stopped early", "broken": "failed", "busy": "running"}
    assert standings_of(sweep) == {**expected, "untouched": "not started"}
    set_driver(sweep, updated=time.time() - 2 * ALIVE_SECONDS)  # killed: nobody wrote that it ended
    assert standings_of(sweep)["busy"] == "interrupted"
    set_driver(sweep, ended=True, over_budget="the budget of 2 hours is used up")
    untouched = trial_of(sweep, "untouched")
    assert (untouched.standing, untouched.reason) == ("not started", "the budget of 2 hours is used up")


def test_a_half_written_line_is_left_out(sweep: Path) -> None:
    with (sweep / "busy" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "time')
    busy = trial_of(sweep, "busy")
    assert (busy.epoch, busy.val_mae) == (2, 0.25)


def test_after_a_first_epoch_the_time_left_is_a_bound() -> None:
    trial = TrialStatus("one", "formation_energy", "max", "eV", 4, "running", 1, seconds_per_epoch=400.0)
    assert Summary((trial,), DriverState(), alive=True).tally.speed().endswith(", at most 20 min left")
    later = replace(trial, epoch=2, seconds_per_epoch=1.0)
    assert Summary((later,), DriverState(), alive=True).tally.speed().endswith(", about 2 s left")


def test_status_says_it_from_another_shell(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["asweep", "--runs", str(sweep.parent)]) == 0
    said = capsys.readouterr().out
    assert "5 trials: 1 done, 1 stopped early, 1 failed, 1 running, 1 not started" in said
    assert f"driver running (process {os.getpid()} on " in said
    assert "0.50 epochs/s, about 36 s left" in said
    assert "best of sample formation_energy, max: validation MAE 0.1000 eV (finished)" in said
    assert "  broken: failed after epoch 2 of 10: OSError: no space left" in said
    set_driver(sweep, updated=0.0)
    assert status(["asweep", "--runs", str(sweep.parent), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert not content["alive"]
    assert {trial["name"]: trial["fate"] for trial in content["trials"]}["busy"] == "interrupted"


def test_status_of_a_sweep_that_is_not_there(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["aswep", "--runs", str(sweep.parent)]) == 2
    assert "no sweep 'aswep'" in (said := capsys.readouterr().err)
    assert "did you mean 'asweep'?" in said


def test_the_report_lists_every_trial(sweep: Path) -> None:
    report = write_report(sweep, [("lost node", 3)]).read_text()
    assert "Started again for lost node: 3 times." in report
    assert "- `early`: stopped early after epoch 2 of 10: not among the best" in report
    assert "- `untouched`: not started" in report
    content = json.loads((sweep / "report.json").read_text())
    assert len(content["trials"]) == 5
    assert read_summary(sweep).counts() in report


def test_a_plan_can_grow(sweep: Path) -> None:
    append_plan(sweep, TrialStatus("one-more", "sample formation_energy", "max", "eV", 10))
    assert standings_of(sweep)["one-more"] == "not started"
    with pytest.raises(UserError, match="no sweep"):
        read_summary(sweep.parent / "elsewhere")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"epoch": "x"}\n', b"\xff\xfe\x00\n", b"null\n"])
@pytest.mark.parametrize(
    "name",
    [
        "finished/done.json",
        "finished/metrics.jsonl",
        "early/stopped_early.json",
        "busy/state.json",
        "driver.json",
        "plan.jsonl",
    ],
)
def test_one_damaged_file_hides_nothing_else(
    sweep: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    whole = standings_of(sweep)
    path = sweep / name
    if path.suffix == ".jsonl":
        _, *lines = path.read_bytes().splitlines(keepends=True)
        if not content.endswith(b"\n"):
            content += b"\n"
        path.write_bytes(content + b"".join(lines))
        whole.pop("finished")
    else:
        path.write_bytes(content)
    assert status(["asweep", "--runs", str(sweep.parent), "--all"]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if str(path) in line]
    assert "is damaged" in said
    owner = name.partition("/")[0]
    found = standings_of(sweep)
    if name == "driver.json":  # what the trials' own files say
        whole |= {"busy": "interrupted"}
    elif name != "plan.jsonl":
        assert found.pop(owner) == "failed"
        whole.pop(owner, None)
    assert found == whole
    report = write_report(sweep, []).read_text()
    assert name == "driver.json" or name == "plan.jsonl" or str(path) in report


def test_a_driver_that_is_busy_and_one_that_starts_are_running(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_driver(sweep, updated=time.time() - 300)  # Ray takes its time
    with locked(sweep / LOCK) as lock:
        lock.write(str(os.getpid()))
        lock.flush()
        status(["asweep", "--runs", str(sweep.parent)])
        assert "driver running" in capsys.readouterr().out
        assert standings_of(sweep)["busy"] == "running"
        set_driver(sweep, pid=1, over_budget="the budget of 2 hours is used up", ended=True)  # the one before
        assert standings_of(sweep) == {**standings_of(sweep), "busy": "interrupted", "untouched": "not started"}
        assert trial_of(sweep, "untouched").reason == ""
        assert read_driver(sweep)[1]
    status(["asweep", "--runs", str(sweep.parent)])
    assert "driver ended" in capsys.readouterr().out
    set_driver(sweep, ended=False, machine="another")
    status(["asweep", "--runs", str(sweep.parent)])
    assert "driver silent for 5 min (process 1 on another)" in capsys.readouterr().out


def test_what_a_killed_driver_left_running_waits_for_its_successor(sweep: Path) -> None:
    Heartbeat(sweep, Budget())
    assert RunDirectory(sweep / "busy").state().state == "running"  # type: ignore[union-attr]
    assert standings_of(sweep)["busy"] == "interrupted"
    Heartbeat(sweep, Budget()).tick(["busy", "untouched"])
    assert {standings_of(sweep)[name] for name in ("busy", "untouched")} == {"running"}
    Heartbeat(sweep, Budget()).end({"busy": "its worker process died (after 3 new attempts)"}, "")
    assert trial_of(sweep, "busy").sentence() == (
        "failed after epoch 2 of 10: its worker process died (after 3 new attempts)"
    )


def test_every_setting_that_varies_has_a_row(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"formation_energy-max-num_blocks{blocks}-seed0-1a2b3c4d" for blocks in (1, 2)]
    write_plan(sweep, (TrialStatus(name, "sample formation_energy", "max", "eV", 10) for name in names))
    for number, name in enumerate(names):
        with RunDirectory(sweep / name).attempt(build_trial({"train.seed": number}), "data") as attempt:
            attempt.write_result({**RESULT, "val_mae": 0.1 + number})
    status(["asweep", "--runs", str(sweep.parent)])
    said = capsys.readouterr().out
    assert f"best of sample formation_energy, max, num_blocks1: validation MAE 0.1000 eV ({names[0]})" in said
    assert f"best of sample formation_energy, max, num_blocks2: validation MAE 1.1000 eV ({names[1]})" in said


def test_watching_says_each_event_once(sweep: Path) -> None:
    command = [sys.executable, "pipelines/status.py", "asweep", "--runs", str(sweep.parent), "--watch"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as watcher,
        locked(sweep / LOCK) as lock,
    ):
        assert watcher.stdout is not None
        lock.write(str(os.getpid()))
        lock.flush()
        heartbeat = Heartbeat(sweep, Budget())
        heartbeat.tick(["busy"])
        said = watcher.stdout.readline()
        assert said == "asweep: 5 trials: 1 done, 1 stopped early, 1 running, 1 interrupted, 1 not started\n"
        assert watcher.stdout.readline().startswith(f"driver running (process {os.getpid()}")
        config = build_trial({"train.epochs": 10, "train.average_epochs": 0})
        with RunDirectory(sweep / "busy").attempt(config, "data") as attempt:
            attempt.append(StepMetrics(3, round(time.time() * 1000), {"val/mae_eV": 0.125, "seconds_per_epoch": 2.0}))
            assert watcher.stdout.readline() == "busy: epoch 3/10, val MAE 0.1250 eV, about 50 s left\n"
            attempt.write_result({**RESULT, "final": {**RESULT["final"], "step": 3}})
            assert watcher.stdout.readline().startswith("busy: done, test MAE 0.2000 eV (2 done, 1 stopped early, ")
        heartbeat.end({}, "")
        (sweep / LOCK).unlink()  # the lock itself is held until this block ends
        rest = watcher.stdout.read()
        assert "driver ended" in rest
        assert rest.count("busy") == 0
        assert watcher.wait(60) == 0


def test_time_and_money_add_up_over_drivers(tmp_path: Path) -> None:
    clock = [0.0]
    budget = Budget(hours=2.0, cost_per_hour=1.5, max_cost=4.0)
    first = Heartbeat(tmp_path, budget, lambda: clock[0])
    clock[0] = 3600.0
    assert first.tick(["one", "other"]) == ""
    second = Heartbeat(tmp_path, budget, lambda: clock[0])  # the first one was killed
    assert (second.state.seconds, second.state.trial_seconds) == (3600.0, 7200.0)
    assert second.state.cost == pytest.approx(3.0)
    clock[0] += 1800.0
    assert second.tick(["one", "other"]) == "the budget of 4 is used up"
    clock[0] += 1800.0
    assert second.tick([]) == "the budget of 2 hours is used up"
    assert Budget().used_up(DriverState(seconds=1e9)) == ""


def test_trials_share_a_gpu_by_what_they_need() -> None:
    assert trials_per_gpu(60 * GIB, 80 * GIB) == 1
    assert trials_per_gpu(8 * GIB, 80 * GIB) == 7
    assert trials_per_gpu(GIB // 10, 80 * GIB) == 16
    for peak in range(1, 60):
        number = trials_per_gpu(peak * GIB, 80 * GIB)
        assert gpu_share(peak * GIB, 80 * GIB) * number <= 1.0
        assert gpu_share(peak * GIB, 80 * GIB) * (number + 1) > 1.0


def test_the_first_trial_measures_for_the_others() -> None:
    trials = [Trial(f"t{seed}", build_trial({"train.seed": seed})) for seed in range(4)]
    source = MeasuredJobs(JobList(trials, lambda trial: TrialJob(trial, RunDirectory(Path()), cpus=1)))
    first = source.next_job()
    assert first is not None
    assert (first.name, first.gpus, first.device) == ("t0", 1.0, "cuda")
    assert source.next_job() is None  # nobody knows yet
    assert not source.stops_here("t0", TrialProgress(1, 10, 0.1, 1.0, None, 8 * GIB, 80 * GIB))
    second = source.next_job()
    assert second is not None
    assert second.gpus == gpu_share(8 * GIB, 80 * GIB)
    source.stops_here("t1", TrialProgress(1, 10, 0.1, 1.0, None, 30 * GIB, 80 * GIB))
    third = source.next_job()
    assert third is not None
    assert third.gpus == gpu_share(30 * GIB, 80 * GIB)
    assert not source.exhausted


def test_a_first_trial_that_fails_passes_the_measuring_on() -> None:
    trials = [Trial(f"t{seed}", build_trial({"train.seed": seed})) for seed in range(2)]
    source = MeasuredJobs(JobList(trials, lambda trial: TrialJob(trial, RunDirectory(Path()), cpus=1)))
    source.next_job()
    source.failed("t0", "no such data")
    second = source.next_job()
    assert second is not None
    assert second.gpus == 1.0


def test_hours_are_estimated_from_earlier_trials(tmp_path: Path) -> None:
    config = build_trial({"train.epochs": 100, "train.average_epochs": 0, "model.frame": "none"})
    trial, other = Trial("known", config), Trial("other", replace(config, model=replace(config.model, frame="max")))
    assert not Pace(tmp_path).of(config, on_gpu=True).measured
    with RunDirectory(tmp_path / "asweep" / "earlier").attempt(config, "data") as attempt:
        for epoch in (1, 2, 3):
            attempt.append(StepMetrics(epoch, 1, {"val/mae_eV": 0.5, "seconds_per_epoch": 36.0}))
    lines = describe_sweep([trial, other], Resources(gpus_per_trial=0.5), tmp_path).splitlines()
    assert lines[0] == "known  1 h (as earlier trials)"
    assert lines[1].endswith("(rough guess)")
    assert lines[2].startswith("2 trials: 1.")
    assert "GPU-hours" in lines[2]
    faster = replace(config, train=replace(config.train, seed=7, learning_rate=1e-3))
    assert Pace(tmp_path).of(faster, on_gpu=False).measured
    on_processor = describe_sweep([trial, other], Resources(), tmp_path).splitlines()
    assert on_processor == [
        "known  1 h (as earlier trials)",
        "other  time unknown until one like it has run here",
        "2 trials: 1 hours of trials, one after another, and 1 whose time is unknown",
    ]
    own = replace(other, config=replace(other.config, data=DataConfig(dataset="mine", task="hardness")))
    for resources in (Resources(), Resources(gpus_per_trial=1.0)):  # how many crystals it has is not known
        said = describe_sweep([own], resources, tmp_path)
        assert said == "other  time unknown until one like it has run here\n1 trial"
