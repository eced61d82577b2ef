"""What became of every trial, read from the folder alone; budgets, estimates, the status program, the report."""

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from crystalframer.config import build_trial
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.gpu_share import MeasuredJobs, gpu_share, trials_per_gpu
from crystalframer.orchestration.cluster.jobs import JobList, Resources, TrialJob
from crystalframer.orchestration.sweeps.estimates import Pace, describe_sweep
from crystalframer.runs.budget import ALIVE_SECONDS, Account, Budget, Ledger, read_account
from crystalframer.runs.run_directory import EarlyStop, RunDirectory
from crystalframer.runs.status import Planned, append_plan, count, read_fates, write_plan, write_report
from crystalframer.runs.tracker import StepMetrics
from crystalframer.runs.trial import Trial, TrialProgress
from pipelines.status import main as status

GIB = 1024**3


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep with a trial of every fate, under a driver that seems to live."""
    folder = tmp_path / "asweep"
    folder.mkdir()
    names = ("finished", "early", "broken", "busy", "untouched")
    write_plan(folder, (Planned(name, "sample formation_energy", "max", "eV", 10) for name in names))
    config = build_trial({"train.epochs": 10, "train.average_epochs": 0})
    for name in names[:4]:
        with RunDirectory(folder / name).attempt(config, "data") as attempt:
            for epoch in (1, 2):
                values = {"val/mae_eV": 0.5 / epoch, "seconds_per_epoch": 2.0}
                attempt.append(StepMetrics(epoch, round(time.time() * 1000), values))
            attempt.write_state("running", 2)
            if name == "finished":
                attempt.write_result({"val_mae": 0.1, "test_mae": 0.2})
            if name == "broken":
                attempt.write_state("failed", 2, "OSError: no space left")
    RunDirectory(folder / "early").stop_early(EarlyStop(2, 0.25, "not among the best"))
    ledger = Ledger(folder, Budget(cost_per_hour=3.0))
    ledger.tick(2)
    ledger.write()
    return folder


def fates_of(folder: Path) -> dict[str, str]:
    return {fate.name: fate.fate for fate in read_fates(folder)[0]}


def set_account(folder: Path, **changes: object) -> None:
    account = read_account(folder)
    assert account is not None
    (folder / "driver.json").write_text(json.dumps(asdict(replace(account, **changes))))  # type: ignore[arg-type]


def test_every_fate_is_told(sweep: Path) -> None:
    expected = {"finished": "done", "early": "stopped early", "broken": "failed", "busy": "running"}
    assert fates_of(sweep) == {**expected, "untouched": "not started"}
    set_account(sweep, updated=time.time() - 2 * ALIVE_SECONDS)  # killed: nobody wrote that it ended
    assert fates_of(sweep)["busy"] == "interrupted"
    set_account(sweep, ended=True, over_budget="the budget of 2 hours is used up")
    (untouched,) = [fate for fate in read_fates(sweep)[0] if fate.name == "untouched"]
    assert (untouched.fate, untouched.reason) == ("not started", "the budget of 2 hours is used up")


def test_a_half_written_line_is_left_out(sweep: Path) -> None:
    with (sweep / "busy" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "time')
    (busy,) = [fate for fate in read_fates(sweep)[0] if fate.name == "busy"]
    assert (busy.epoch, busy.val_mae) == (2, 0.25)


def test_status_says_it_from_another_shell(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["asweep", "--runs", str(sweep.parent)]) == 0
    said = capsys.readouterr().out
    assert "5 trials: 1 done, 1 stopped early, 1 failed, 1 running, 1 not started" in said
    assert f"driver running (process {os.getpid()} on " in said
    assert "0.50 epochs/s, about 36 s left" in said
    assert "best of sample formation_energy, max: validation MAE 0.1000 eV (finished)" in said
    assert "  broken: failed after epoch 2 of 10: OSError: no space left" in said
    set_account(sweep, updated=0.0)
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
    assert count(read_fates(sweep)[0]) in report


def test_a_plan_can_grow(sweep: Path) -> None:
    append_plan(sweep, Planned("one-more", "sample formation_energy", "max", "eV", 10))
    assert fates_of(sweep)["one-more"] == "not started"
    with pytest.raises(UserError, match="no sweep"):
        read_fates(sweep.parent / "elsewhere")


def test_time_and_money_add_up_over_drivers(tmp_path: Path) -> None:
    clock = [0.0]
    budget = Budget(hours=2.0, cost_per_hour=1.5, max_cost=4.0)
    first = Ledger(tmp_path, budget, lambda: clock[0])
    clock[0] = 3600.0
    assert first.tick(2) == ""
    second = Ledger(tmp_path, budget, lambda: clock[0])  # the first one was killed
    assert (second.account.seconds, second.account.trial_seconds) == (3600.0, 7200.0)
    assert second.account.cost == pytest.approx(3.0)
    clock[0] += 1800.0
    assert second.tick(2) == "the budget of 4 is used up"
    clock[0] += 1800.0
    assert second.tick(0) == "the budget of 2 hours is used up"
    assert Budget().used_up(Account(seconds=1e9)) == ""


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
    plain = TrialJob("", {}, "", "", "", {}, 1, "cpu", 10.0, "")
    source = MeasuredJobs(JobList(trials, lambda trial: replace(plain, name=trial.name)))
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
    plain = TrialJob("", {}, "", "", "", {}, 1, "cpu", 10.0, "")
    source = MeasuredJobs(JobList(trials, lambda trial: replace(plain, name=trial.name)))
    source.next_job()
    source.failed("t0", "no such data")
    second = source.next_job()
    assert second is not None
    assert second.gpus == 1.0


def test_hours_are_estimated_from_earlier_trials(tmp_path: Path) -> None:
    config = build_trial({"train.epochs": 100, "train.average_epochs": 0, "model.frame": "none"})
    trial, other = Trial("known", config), Trial("other", replace(config, model=replace(config.model, frame="max")))
    assert not Pace(tmp_path).of(config).measured
    with RunDirectory(tmp_path / "asweep" / "earlier").attempt(config, "data") as attempt:
        for epoch in (1, 2, 3):
            attempt.append(StepMetrics(epoch, 1, {"val/mae_eV": 0.5, "seconds_per_epoch": 36.0}))
    lines = describe_sweep([trial, other], Resources(gpus_per_trial=0.5), tmp_path).splitlines()
    assert lines[0] == "known  1 h (as earlier trials)"
    assert lines[1].endswith("(rough guess)")
    assert lines[2].startswith("2 trials: 1.")
    assert "GPU-hours" in lines[2]
    faster = replace(config, train=replace(config.train, seed=7, learning_rate=1e-3))
    assert Pace(tmp_path).of(faster).measured
