"""A clock that is set back, or was ahead: what a driver says of itself, what a trial records, what is copied."""

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from crystalframer.orchestration.tracking import head
from crystalframer.runs.budget import ALIVE_SECONDS, Budget, DriverState, Heartbeat, read_driver
from crystalframer.runs.run_directory import RunDirectory

DAY = 86_400
Shifted = Callable[[int], dict[str, str]]


@pytest.fixture
def shifted(tmp_path: Path, root: Path) -> Shifted:
    """Return a function that sets the clock of other processes, and returns the environment that gives it to them."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for a clock of its own")
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    source = root / "tests" / "cluster" / "clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)

    def shift(seconds: int) -> dict[str, str]:
        with offset.open("r+b" if offset.exists() else "xb") as file:  # in place, as it is mapped
            file.write(struct.pack("q", seconds))
        return {
            **os.environ, "LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset), "PYTHONPATH": str(root),
        }  # fmt: skip

    return shift


def test_a_dead_driver_is_dead_though_the_clock_went_back(shifted: Shifted, tmp_path: Path, root: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from crystalframer.runs.budget import Budget, Heartbeat
from crystalframer.runs.status import write_plan
folder = Path({str(tmp_path)!r}, "tiny")
folder.mkdir()
write_plan(folder, ())
Heartbeat(folder, Budget())
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], cwd=root, env=shifted(0), check=False)
    status = [sys.executable, "-m", "crystalframer", "status", "tiny", "--runs", str(tmp_path)]
    for seconds in (-3600, 3600):
        done = subprocess.run(status, cwd=root, env=shifted(seconds), capture_output=True, text=True, check=True)
        assert "driver dead" in done.stdout, (seconds, done.stdout)


def test_a_driver_whose_clock_is_a_little_ahead_runs() -> None:
    assert DriverState(updated=100.0 + ALIVE_SECONDS / 2).is_alive(now=100.0)
    assert not DriverState(updated=100.0 + 2 * ALIVE_SECONDS).is_alive(now=100.0)


@pytest.mark.slow
def test_a_trial_is_the_same_though_the_clock_jumps_and_its_process_dies(
    shifted: Shifted, tmp_path: Path, root: Path
) -> None:
    program = f"""
import sys
from dataclasses import replace
from pathlib import Path
from crystalframer.resolving import build_trial
from crystalframer.data.registry import load_task
from crystalframer.runs.budget import Budget, Heartbeat
from crystalframer.runs.run_directory import RunDirectory
from tests.runs.memory_tracker import MemoryTracker
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from tests.orchestration.conftest import TINY
from tests.orchestration.stub_training import StubTrainer
folder = Path({str(tmp_path)!r})
flat = {{f"{{section}}.{{key}}": value for section, values in TINY.items() for key, value in values.items()}}
config = build_trial({{**flat, "train.epochs": 40}})
heartbeat = Heartbeat(folder, Budget(hours=1.0))
trial, data = Trial("a-trial", config), load_task(config.data)
directory = RunDirectory(folder / sys.argv[1])
for _ in run_trial(TrialJob(trial, directory, checkpoint_seconds=0.1), data, MemoryTracker({{}}), StubTrainer):
    assert not heartbeat.tick(["a-trial"]), "an hour has passed"
"""
    command = [sys.executable, "-c", program]
    subprocess.run([*command, "undisturbed"], cwd=root, env=shifted(0), check=True)
    directory = RunDirectory(tmp_path / "disturbed")
    slow = {**shifted(0), "STUB_EPOCH_SECONDS": "0.05"}
    with subprocess.Popen([*command, "disturbed"], cwd=root, env=slow) as process:
        for jump, epochs in ((-DAY, 5), (DAY, 10), (-7 * DAY, 15)):
            until = time.monotonic() + 120
            while len(directory.records()) < epochs and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            shifted(jump)
        process.kill()
    assert 15 <= len(directory.records()) < 40
    subprocess.run([*command, "disturbed"], cwd=root, env=shifted(-30 * DAY), check=True)
    found, expected = directory.records(), RunDirectory(tmp_path / "undisturbed").records()
    assert [(one.step, one.values) for one in found] == [(one.step, one.values) for one in expected]
    assert directory.result() is not None
    used, alive = read_driver(tmp_path)
    assert 0 < used.seconds < 300
    assert not alive


def test_hours_of_a_sweep_do_not_follow_the_wall_clock(tmp_path: Path) -> None:
    future = time.time() + 30 * DAY
    (tmp_path / "driver.json").write_text(json.dumps({"pid": 1, "started": future, "updated": future, "seconds": 7.0}))
    heartbeat = Heartbeat(tmp_path, Budget(hours=0.1))
    assert heartbeat.tick([]) == ""
    assert 7.0 <= heartbeat.state.seconds < 60.0


def test_a_database_is_copied_though_its_copy_is_younger(tmp_path: Path) -> None:
    database, copy = tmp_path / "mlflow.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(database)) as source:
        source.execute("CREATE TABLE numbers (n INTEGER)")
        source.commit()
        content = head._copy_changed(database, copy, None)
        os.utime(copy, (time.time() + DAY,) * 2)  # as the clock was then
        source.execute("INSERT INTO numbers VALUES (1)")
        source.commit()
    content = head._copy_changed(database, copy, content)
    with closing(sqlite3.connect(copy)) as found:
        assert found.execute("SELECT n FROM numbers").fetchall() == [(1,)]
    before = copy.stat()
    assert head._copy_changed(database, copy, content) == content
    assert copy.stat().st_ino == before.st_ino, "not copied again"
