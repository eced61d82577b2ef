"""The local tracking server: it lives as long as its parent, and never leaves half a database."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crystalframer import cli
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking import server
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.orchestration.tracking.server import (
    LocalMlflowServer,
    create_database,
    damage,
    database_uri,
    is_answering,
)
from tests.orchestration.processes import all_gone, descendants

WATCHDOG = Path(server.__file__).with_name("die_with_parent.py")


@pytest.fixture
def stubborn() -> Iterator[tuple["subprocess.Popen[bytes]", list[int]]]:
    """A watched process that ignores SIGTERM, and a child of it that does, too."""
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); " + child
    watched = subprocess.Popen([sys.executable, str(WATCHDOG), sys.executable, "-c", parent], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while len(descendants(watched.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    yield watched, descendants(watched.pid)
    with contextlib.suppress(ProcessLookupError):
        watched.kill()
    watched.communicate()


def test_the_watchdog_ends_even_what_ignores_it(
    stubborn: tuple["subprocess.Popen[bytes]", list[int]],
) -> None:
    watched, processes = stubborn
    assert len(processes) == 2
    assert watched.stdin is not None
    watched.stdin.close()
    assert all_gone(processes)
    assert watched.wait(timeout=10) != 0


def test_the_watchdog_returns_the_commands_exit_code() -> None:
    command = [sys.executable, str(WATCHDOG), sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as watched:
        assert watched.wait(timeout=20) == 7


def test_the_server_dies_with_its_parent_after_kill_9(tmp_path: Path) -> None:
    parent = f"""
import sys, time
from pathlib import Path
from crystalframer.orchestration.tracking.server import LocalMlflowServer
server = LocalMlflowServer(Path({str(tmp_path)!r}))
server.wait_until_ready()
print(server.uri, flush=True)
time.sleep(120)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    uri = process.stdout.readline().strip()
    family = descendants(process.pid)
    assert len(family) >= 3  # watchdog, mlflow, uvicorn
    assert uri.startswith("http://127.0.0.1:")
    assert is_answering(uri)
    process.kill()
    process.communicate()
    assert all_gone(family)
    assert not is_answering(uri)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    half = tmp_path / ".mlflow.db.new"  # what a kill in the middle of the work leaves
    with contextlib.closing(sqlite3.connect(half)) as database:
        database.execute("CREATE TABLE experiments (broken INTEGER)")
    create_database(tmp_path)
    made = (tmp_path / "mlflow.db").stat().st_ino
    create_database(tmp_path)
    assert (tmp_path / "mlflow.db").stat().st_ino == made
    assert not half.exists()
    experiment = MlflowExperiment(database_uri(tmp_path), "a")
    tracker = experiment.tracker()
    tracker.start("key", {}, {})
    assert list(experiment.runs()) == ["key"]


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.execute("INSERT INTO alembic_version VALUES ('of a later MLflow')")
    with (
        LocalMlflowServer(tmp_path) as server,
        pytest.raises(UserError, match=r"the MLflow server ended at once: .*; see .*mlflow-server.log"),
    ):
        server.wait_until_ready()


def test_a_damaged_database_is_one_sentence_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mlflow.db"
    create_database(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    whole, random = path.read_bytes(), np.random.default_rng(0)
    noise = np.frombuffer(whole, np.uint8).copy()
    noise[random.integers(4096, len(whole), 20_000)] = random.integers(0, 256, 20_000)
    assert damage(path) == ""
    capsys.readouterr()
    for damaged in (b"no database " * 100, whole[: len(whole) // 2], noise.tobytes()):
        path.write_bytes(damaged)
        assert cli.main(["ui", "--runs", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: MLflow's database {path} is damaged (")
        assert said.endswith("records its trials anew from their directories\n")
        assert said.count("\n") == 1
        assert path.read_bytes() == damaged


def test_a_log_that_a_database_left_behind_is_not_played_back(tmp_path: Path) -> None:
    create_database(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET name = 'former'")
        database.commit()
        log = (tmp_path / "mlflow.db-wal").read_bytes()
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db-wal").write_bytes(log)
    program = "import sys; from pathlib import Path; from crystalframer.orchestration.tracking.server import *; "
    program += "create_database(Path(sys.argv[1]))"  # in another process, as MLflow keeps its connections
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, stderr=subprocess.DEVNULL)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
