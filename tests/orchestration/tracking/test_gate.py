"""The gate of a cluster's MLflow server, and the server on its head: real servers, real clients."""

import base64
import contextlib
import os
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from crystalframer.errors import UserError
from crystalframer.orchestration.tracking import gate
from crystalframer.orchestration.tracking.experiment import connect
from crystalframer.orchestration.tracking.head import copy_database
from crystalframer.orchestration.tracking.server import LocalMlflowServer, is_answering
from tests.orchestration.heads import head_server, wait_until_answering
from tests.orchestration.processes import all_gone, descendants

TOKEN = "a-token-that-no-file-may-show"


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster's token, in a file as Ray keeps it."""
    path = tmp_path / "auth_token"
    path.write_text(TOKEN + "\n")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "")  # so that it is restored at the end
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return path


def status(uri: str, authorization: str | None = None) -> int:
    request = urllib.request.Request(uri, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_password_follows_from_the_token(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gate.required_password()
    assert first == gate.password()
    assert TOKEN not in first
    assert len(first) == 64
    token.write_text("another")
    assert gate.password() != first
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)  # Ray looks there first
    assert gate.password() == first
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert gate.password() is None
    with pytest.raises(UserError, match="this cluster has no token"):
        gate.required_password()


def test_only_the_password_opens_the_gate(token: Path, tmp_path: Path) -> None:
    word = gate.required_password()
    # 127.0.0.1 stands for an address that other nodes reach: the server listens on every interface
    with LocalMlflowServer(tmp_path / "runs", reachable_as="127.0.0.1") as server:
        server.wait_until_ready()
        page = f"{server.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
        basic = base64.b64encode(f"anyone:{word}".encode()).decode()
        wrong = base64.b64encode(b"anyone:wrong").decode()
        assert status(f"{server.uri}/health") == 200
        assert status(page) == status(server.uri) == 401
        assert status(page, "Bearer wrong") == status(page, f"Basic {wrong}") == status(page, "Basic %%%") == 401
        assert status(page, f"Bearer {TOKEN}") == 401  # the token itself is not what goes over the network
        assert status(page, f"Bearer {word}") == status(page, f"Basic {basic}") == 200
        with pytest.raises(MlflowException, match="401"):
            connect(server.uri).search_experiments()
        gate.sign_in()
        client = connect(server.uri)
        run = client.create_run(client.create_experiment("gate"))  # the default one keeps its files in ./mlruns
        client.log_text(run.info.run_id, "kept", "a.txt")
        assert [found.path for found in client.list_artifacts(run.info.run_id)] == ["a.txt"]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != token:
            content = path.read_bytes()
            assert word.encode() not in content, path
            assert TOKEN.encode() not in content, path


@pytest.fixture
def head(token: Path, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A head's server, and its address."""
    with head_server(tmp_path) as running:
        yield running


@pytest.mark.slow
def test_the_heads_server_comes_back_and_leaves_a_copy(
    head: tuple["subprocess.Popen[bytes]", str], tmp_path: Path
) -> None:
    process, uri = head
    wait_until_answering(uri)
    gate.sign_in()
    client = connect(uri)
    client.create_experiment("kept")
    servers = descendants(process.pid)
    for pid in servers[1:]:  # MLflow and its worker, not the watchdog
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert all_gone(servers[1:])
    wait_until_answering(uri)
    assert client.get_experiment_by_name("kept") is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert not is_answering(uri)
    with contextlib.closing(sqlite3.connect(tmp_path / "shared" / "mlflow.db")) as copy:
        assert ("kept",) in copy.execute("SELECT name FROM experiments").fetchall()


def test_a_copy_of_a_database_in_use(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE numbers (n INTEGER)")
        database.execute("INSERT INTO numbers VALUES (1)")
        database.commit()
        copy_database(tmp_path / "mlflow.db", tmp_path / "copy.db")
        database.execute("INSERT INTO numbers VALUES (2)")  # in the write-ahead log alone, and open
        copy_database(tmp_path / "mlflow.db", tmp_path / "copy.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
            assert copy.execute("SELECT n FROM numbers").fetchall() == [(1,)]
        database.commit()
    copy_database(tmp_path / "mlflow.db", tmp_path / "copy.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT n FROM numbers").fetchall() == [(1,), (2,)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "mlflow.db"]
