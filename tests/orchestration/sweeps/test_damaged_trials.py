"""A trial whose files are damaged fails alone: its sweep starts, the others run, the sentence names the file."""

from pathlib import Path

import pytest
from rich.console import Console

from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.jobs import JobList
from crystalframer.orchestration.sweeps.driver import SweepOptions
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from tests.orchestration.conftest import WriteSweep
from tests.orchestration.searches import Here
from tests.orchestration.stub_training import StubTrainer
from tests.runs.memory_tracker import MemoryTracker


def work(trial: Trial, folder: Path) -> None:
    data, directory = load_task(trial.config.data), RunDirectory(folder / trial.name)
    list(run_trial(TrialJob(trial, directory), data, MemoryTracker({}), StubTrainer))


@pytest.mark.parametrize("content", [b"", b'{"state": "runn', b"\xff\xfe"])
@pytest.mark.parametrize(
    ("name", "mends_itself"),
    [("config.json", False), ("done.json", False), ("metrics.jsonl", False), ("state.json", True)],
)
def test_a_damaged_trial_is_tried_and_fails_alone(
    write_sweep: WriteSweep, tmp_path: Path, name: str, content: bytes, *, mends_itself: bool
) -> None:
    spec = load_sweep(write_sweep())
    folder, (first, second, *others) = tmp_path / "runs" / spec.name, spec.trials()
    for trial in (first, second):
        work(trial, folder)
    path = folder / first.name / name
    path.write_bytes(content + b"\n" * (path.suffix == ".jsonl"))
    if name in ("metrics.jsonl", "state.json"):
        path.with_name("done.json").unlink()

    driver = Here(spec, SweepOptions(tmp_path / "runs"), Console(quiet=True))
    for trial in spec.trials():
        driver.add(trial, load_task(trial.config.data))
    pending = driver.unfinished()
    done_anyway = name == "config.json"  # nothing is left to do, nobody asks
    assert pending == [*([] if done_anyway else [first]), *others]
    source = JobList(pending, driver.job)
    assert len([source.next_job() for _ in pending]) == len(pending)
    if mends_itself:
        work(first, folder)
    else:
        with pytest.raises(UserError, match="is damaged; delete ") as refused:
            work(first, folder)
        assert str(path) in str(refused.value)
        if name == "done.json":
            path.unlink()  # as told
            work(first, folder)
    if name in ("done.json", "state.json"):
        assert RunDirectory(folder / first.name).result() is not None
