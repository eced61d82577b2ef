"""The gate of a cluster's MLflow server, and the server on its head: real servers, real clients."""

import base64
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from crystalframer.errors import UserError
from crystalframer.orchestration.tracking import gate
from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.head import copy_database
from crystalframer.orchestration.tracking.server import LocalMlflowServer, Tracking, is_answering
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMlflowServer]:
    """A server for this machine alone, as every sweep on a laptop starts it."""
    with LocalMlflowServer(tmp_path_factory.mktemp("loopback") / "runs") as running:
        running.wait_until_ready()
        yield running


def request_of(server: LocalMlflowServer, path: str, **headers: str) -> urllib.request.Request:
    return urllib.request.Request(f"{server.uri}/{path}", headers=headers)


def test_another_user_of_this_machine_is_kept_out(server: LocalMlflowServer) -> None:
    become_nobody = "os.setgid(65534); os.setuid(65534)" if os.getuid() == 0 else ""
    asked = f"""
import encodings.idna, os, sys, urllib.error, urllib.request  # before they are out of reach
{become_nobody}
try:
    urllib.request.urlopen(sys.argv[1])
except urllib.error.HTTPError as error:
    print(error.code)
"""
    page = f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1"
    command = [sys.executable, "-c", asked, page]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "401", done.stderr
    assert server.log.stat().st_mode & 0o077 == 0


def test_the_printed_link_signs_a_browser_in(server: LocalMlflowServer) -> None:
    tracking = Tracking(server.uri, server)
    experiment = tracking.experiment("linked")
    link, _, page = tracking.link(experiment).partition("#")  # as a sweep prints it
    assert page == f"/experiments/{experiment.id}/runs?workflowType=machine_learning&viewStateShareKey=overview"
    assert Tracking("http://elsewhere").link(experiment) == f"http://elsewhere/#{page}"
    with urllib.request.urlopen(link) as answer:
        assert answer.headers["cache-control"] == "no-store"
        cookie, arrival = answer.headers["set-cookie"], answer.read().decode()
    assert 'searchParams.delete("token")' in arrival  # test_first_screen.py looks at the address that a browser ends on
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    word = link.partition("token=")[2]
    assert word not in cookie + arrival
    page = "api/2.0/mlflow/experiments/get?experiment_id=0"
    with urllib.request.urlopen(request_of(server, page, Cookie=cookie.partition(";")[0])) as answer:
        assert answer.status == 200
    for wrong in ("crystalframer-1=x", cookie.partition("=")[0] + "=x", "%%"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request_of(server, page, Cookie=wrong))
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.uri}/?token=wrong")
    assert word not in server.log.read_text()


def test_no_assistant_runs_commands_here(server: LocalMlflowServer) -> None:
    with urllib.request.urlopen(server.page("")) as answer:
        cookie = answer.headers["set-cookie"].partition(";")[0]
    for path in ("config", "providers", "sessions/1/stream", "message"):
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(request_of(server, f"ajax-api/3.0/mlflow/assistant/{path}", Cookie=cookie))
        with refused.value as answer:
            assert answer.read() == b"this server runs no assistant\n"


def test_artifacts_stay_in_the_servers_folder(server: LocalMlflowServer, tmp_path: Path) -> None:
    client = connect(server.uri)
    with pytest.raises(MlflowException, match="leave artifact_location out"):
        client.create_experiment("elsewhere", artifact_location=str(tmp_path))
    for key in ("artifactLocation", "artifact_location"):  # MLflow knows both
        request = request_of(server, "api/2.0/mlflow/experiments/create", Authorization=f"Bearer {gate.sign_in()}")
        request.data = json.dumps({"name": key, key: str(tmp_path)}).encode()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
    run = client.create_run(client.create_experiment("links")).info.run_id
    client.log_text(run, "kept", "a.txt")
    (folder,) = (server.log.parent / "mlartifacts").glob(f"*/{run}/artifacts")
    (tmp_path / "secret").write_text("secret")
    (folder / "way_out").symlink_to(tmp_path)
    (folder / "inner").symlink_to(folder / "a.txt")
    word = {"Authorization": f"Bearer {gate.sign_in()}"}
    below = folder.relative_to(server.log.parent / "mlartifacts")
    for path in ("a.txt", "inner"):
        with urllib.request.urlopen(request_of(server, f"get-artifact?run_uuid={run}&path={path}", **word)) as answer:
            assert answer.read() == b"kept"
    for path in (
        f"get-artifact?run_uuid={run}&path=way_out/secret",
        f"api/2.0/mlflow-artifacts/artifacts/{below}/way_out/secret",
        f"api/2.0/mlflow/artifacts/list?run_id={run}&path=way_out",
        f"api/2.0/mlflow-artifacts/artifacts?path={below}/way_out",
    ):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request_of(server, path, **word))
    (folder / "way_out").unlink()


def test_a_request_that_is_no_experiment_is_refused(server: LocalMlflowServer) -> None:
    for body in (b"[]", b"{", b" " * (gate.MAX_BODY + 1)):
        request = request_of(server, "api/2.0/mlflow/experiments/create", Authorization=f"Bearer {gate.sign_in()}")
        request.data = body
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)


def test_a_password_that_is_no_text_is_refused(server: LocalMlflowServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request_of(server, "?token=%FF"))
    assert "Traceback" not in server.log.read_text()


def test_a_proxy_is_not_asked_for_our_own_server(server: LocalMlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert is_answering(server.uri)
    assert connect(server.uri).get_experiment("0") is not None


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
