"""Run directories: what a kill can tear, and that only one attempt writes."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crystalframer.config import TrialConfig
from crystalframer.errors import UserError
from crystalframer.runs import run_directory
from crystalframer.runs.contents import TrialResult
from crystalframer.runs.json_files import DamagedError, sealed
from crystalframer.runs.run_directory import RunDirectory, SupersededError
from crystalframer.runs.tracker import StepMetrics

CONFIG = TrialConfig()
DATA = "d" * 64
RESULT: TrialResult = {
    "trial": "trial",
    "unit": "eV",
    "val_mae": 0.1,
    "test_mae": 1 / 3,
    "test_rmse": 0.5,
    "baseline_mae": 0.8,
    "tags": {"kernel": "reference"},
    "final": {"step": 4, "time_ms": 1000, "values": {"test/mae_eV": 1 / 3}},
}


def steps(last: int) -> list[StepMetrics]:
    return [StepMetrics(step, 1000 * step, {"loss": 1 / step, "third": 1 / 3}) for step in range(1, last + 1)]


def write(directory: RunDirectory, last: int) -> None:
    with directory.attempt(CONFIG, DATA) as attempt:
        for record in steps(last):
            attempt.append(record)


def test_metrics_survive_to_the_last_bit(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    assert directory.records() == []
    write(directory, 5)
    assert directory.records() == steps(5)


def test_a_torn_last_line_is_dropped_and_mended(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    write(directory, 3)
    path = directory.path / "metrics.jsonl"
    whole = path.read_bytes()
    for kept in range(1, len(whole.splitlines(keepends=True)[2])):
        path.write_bytes(whole[:-kept])
        assert directory.records() == steps(2)
    with directory.attempt(CONFIG, DATA) as attempt:
        assert attempt.rewind(2) == steps(2)
        attempt.append(steps(3)[-1])
    assert path.read_bytes() == whole


def test_damage_elsewhere_is_an_error(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    write(directory, 3)
    path = directory.path / "metrics.jsonl"
    path.write_text("?" + path.read_text()[1:])
    with pytest.raises(UserError, match=r"line 1 is damaged; delete .* to run it again"):
        directory.records()


def test_no_flipped_bit_becomes_another_number(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    with directory.attempt(CONFIG, DATA) as attempt:
        for record in steps(4):
            attempt.append(record)
        attempt.write_state("done", 4)
        attempt.write_result(RESULT)
    reads: dict[str, Callable[[], object]] = {
        "done.json": directory.result,
        "state.json": directory.state,
        "config.json": directory.identity,
        "metrics.jsonl": directory.records,
    }
    for name, read in reads.items():
        path, sound = directory.path / name, read()
        whole = path.read_bytes()
        for place, byte in enumerate(whole):
            path.write_bytes(whole[:place] + bytes([byte ^ 1 << place % 8]) + whole[place + 1 :])
            try:
                found = read()
            except DamagedError:
                continue
            assert found == sound, (name, place)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["done.json", "metrics.jsonl"])
def test_a_pipe_is_no_file_of_a_run(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DamagedError, match=rf"{name} cannot be read: it is no regular file"):
        RunDirectory(tmp_path).records()


@pytest.mark.parametrize("tail", [False, True])
def test_missing_epochs_are_noticed(tmp_path: Path, *, tail: bool) -> None:
    directory = RunDirectory(tmp_path / "trial")
    write(directory, 200)  # more than the end that is read of it
    whole = directory.metrics.read_bytes().splitlines(keepends=True)
    assert directory.records(tail=tail)[-1] == steps(200)[-1]
    directory.metrics.write_bytes(b"".join(whole[:197] + whole[198:]))
    with pytest.raises(DamagedError, match=r"delete .*trial to run it again \(it lacks epochs\)"):
        directory.records(tail=tail)
    directory.metrics.write_bytes(b"".join(whole[:150]))
    assert directory.records(tail=tail)[-1].step == 150  # of a trial that runs, the checkpoint says whether that is all
    with directory.attempt(CONFIG, DATA) as attempt:
        attempt.write_result({**RESULT, "final": {**RESULT["final"], "step": 200}})
    with pytest.raises(DamagedError, match="it lacks epochs"):
        directory.records(tail=tail)


def test_an_epoch_of_any_length_is_among_the_last_ones(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    long = [StepMetrics(step, 1000, {f"val/{task}/mae_eV": 0.5 for task in range(999)}) for step in (1, 2)]
    with directory.attempt(CONFIG, DATA) as attempt:
        for record in long:
            attempt.append(record)
    assert directory.records(tail=True)[-1] == long[-1]
    directory.metrics.write_bytes(bytes(10_000))
    assert directory.records(tail=True) == []  # torn


def test_rewinding_drops_what_the_checkpoint_does_not_hold(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    write(directory, 5)
    with directory.attempt(CONFIG, DATA) as attempt:
        assert attempt.rewind(3) == steps(3)
        assert directory.records() == steps(3)
        with pytest.raises(UserError, match="lacks epochs of its checkpoint"):
            attempt.rewind(4)


def test_a_directory_of_other_settings_is_refused(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    write(directory, 1)
    other = replace(CONFIG, train=replace(CONFIG.train, seed=7))
    with pytest.raises(UserError, match="holds a run of other settings"), directory.attempt(other, DATA):
        pass
    with pytest.raises(UserError, match=r"was trained on other data .*--runs"), directory.attempt(CONFIG, "e" * 64):
        pass
    assert directory.records() == steps(1)


def test_state_and_result_are_read_back(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    assert directory.state() is None
    assert directory.result() is None
    with directory.attempt(CONFIG, DATA) as attempt:
        attempt.write_state("failed", 4, "why")
        state = directory.state()
        assert state is not None
        assert (state.state, state.epoch, state.epochs, state.reason) == ("failed", 4, 2000, "why")
        assert state.attempt == attempt.id
        attempt.write_predictions(["a,b", "c"], [0.1, 1 / 3], [0.2, 3.0])
        attempt.write_result(RESULT)
    assert directory.result() == RESULT
    assert directory.predictions.read_text() == 'id,target,prediction\n"a,b",0.1,0.2\nc,0.3333333333333333,3.0\n'
    leftovers = [path.name for path in directory.path.rglob(".*")]
    assert leftovers == []


def test_the_result_of_another_trial_is_none_of_this_one(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "moved")
    directory.prepare(CONFIG, DATA)
    for tags, message in (({"fingerprint": CONFIG.fingerprint()}, ""), ({"fingerprint": "0" * 8}, "another trial")):
        (directory.path / "done.json").write_bytes(sealed({**RESULT, "tags": tags}).encode())
        if not message:
            assert directory.result() is not None
            continue
        with pytest.raises(DamagedError, match=r"done\.json is that of another trial, 'trial'"):
            directory.result()
    (directory.path / "done.json").write_text(json.dumps({**RESULT, "test_mae": math.nan}))
    with pytest.raises(DamagedError, match="an error is no number"):
        directory.result()


def test_a_newer_attempt_takes_over_and_the_older_one_writes_no_more(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "trial")
    took_over = threading.Event()

    def newer() -> None:
        with directory.attempt(CONFIG, DATA) as attempt:
            took_over.set()
            attempt.append(steps(2)[-1])

    with directory.attempt(CONFIG, DATA) as older:
        older.append(steps(1)[0])
        thread = threading.Thread(target=newer)
        thread.start()
        while (directory.path / "attempt").read_text() == older.id:
            time.sleep(0.01)
        assert not took_over.wait(0.3)  # the lock is still the older one's
        for forbidden in (
            lambda: older.append(steps(9)[-1]),
            lambda: older.rewind(0),
            lambda: older.write_state("done", 9),
            lambda: older.write_result(RESULT),
            lambda: older.write_predictions([], [], []),
            older.check_current,
        ):
            with pytest.raises(SupersededError):
                forbidden()
    thread.join(timeout=10)
    assert took_over.is_set()
    assert directory.records() == steps(2)
    assert directory.result() is None


def test_an_attempt_that_never_lets_go_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "LOCK_SECONDS", 0.2)
    directory = RunDirectory(tmp_path / "trial")
    with (
        directory.attempt(CONFIG, DATA),
        pytest.raises(TimeoutError, match="an older attempt still holds"),
        directory.attempt(CONFIG, DATA),
    ):
        pass


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    holder = f"""
import time
from pathlib import Path
from crystalframer.config import TrialConfig
from crystalframer.runs.run_directory import RunDirectory
with RunDirectory(Path({str(tmp_path / "trial")!r})).attempt(TrialConfig(), {DATA!r}):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    write(RunDirectory(tmp_path / "trial"), 1)
