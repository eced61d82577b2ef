"""Addresses of tracking servers mean the same everywhere and hold no secret; who answers there is asked by MLflow."""

import contextlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow.server.security_utils import INVALID_HOST_MSG

from crystalframer.errors import UserError
from crystalframer.orchestration.tracking import gate
from crystalframer.orchestration.tracking.addresses import tracking_address
from crystalframer.orchestration.tracking.client import check_server
from crystalframer.orchestration.tracking.models import fetch_models

SIGN_IN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is signed in, no address is set, and both are restored at the end."""
    for name in (*SIGN_IN, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a folder/ü.db", "sqlite:///{here}/a folder/ü.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("file:records", "file://{here}/records"),
        ("./records", "{here}/records"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("https://mlflow.example.org/sub/", "https://mlflow.example.org/sub"),
        ("", None),
    ],
)
def test_relative_paths_become_absolute_and_empty_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, expected: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = None if expected is None else expected.format(here=tmp_path)
    assert tracking_address(given) == wanted
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_address() == wanted
    assert tracking_address("http://127.0.0.1:1") == "http://127.0.0.1:1", "the command line prevails"


def test_a_login_in_the_address_is_the_clients() -> None:
    assert tracking_address("https://me:se%20cret@host:5000") == "https://host:5000"
    assert [os.environ[name] for name in SIGN_IN] == ["me", "se cret", ""]
    assert gate.credentials() == {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "se cret"}
    with pytest.raises(UserError, match="holds a password") as refused:
        tracking_address("postgresql://me:secret@host/mlflow")
    assert "secret" not in str(refused.value)


@pytest.mark.slow
def test_a_server_is_asked_with_the_login(mlflow_runs: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, uri = mlflow_runs
    with pytest.raises(UserError, match=f"the MLflow server at {uri} refuses the login: set MLFLOW_TRACKING_USERNAME"):
        check_server(uri)
    found = Path(f"/proc/{_server_of(uri)}/environ").read_bytes().split(b"\0")
    (word,) = [entry.partition(b"=")[2].decode() for entry in found if entry.startswith(b"CRYSTALFRAMER_MLFLOW_PASS")]
    check_server(tracking_address(uri.replace("http://", f"http://me:{word}@")) or "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    check_server(uri)
    assert requests.get(f"{uri}/version", headers={"Host": "head.example.org"}, timeout=60).ok, "behind another name"


def _server_of(uri: str) -> int:
    """Return the process that listens at an address of this machine."""
    port = int(uri.rpartition(":")[2])
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if b"--port" in words and words[words.index(b"--port") + 1] == str(port).encode():
            return int(path.parent.name)
    raise AssertionError(f"nobody listens at {uri}")


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that has the same answer to every question; yields its address."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_program_is_not_mlflow() -> None:
    with (
        answering(200, b"<html>hello</html>") as uri,
        pytest.raises(UserError, match=f"what answers at {uri} is no MLflow server; check --tracking-uri"),
    ):
        check_server(uri)


def test_a_model_is_asked_of_no_other_program(tmp_path: Path) -> None:
    with answering(200, b"<html>hello</html>") as uri, pytest.raises(UserError, match=f"answers at {uri} is no MLflow"):
        fetch_models("models:/gaps/1", uri, tmp_path)


def test_a_server_that_is_called_by_another_name() -> None:
    with answering(403, INVALID_HOST_MSG.encode()) as uri:  # what MLflow says from version 3.5 on
        host = uri.removeprefix("http://")
        with pytest.raises(UserError, match=f"does not let itself be called {host}: .* --allowed-hosts {host}`"):
            check_server(uri)


def test_nobody_answers() -> None:
    with pytest.raises(UserError, match=r"no MLflow server answers at http://127.0.0.1:9; check --tracking-uri"):
        check_server("http://127.0.0.1:9")
