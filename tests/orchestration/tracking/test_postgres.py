"""MLflow's records and Optuna's studies in PostgreSQL: a real server, on loopback, with a password."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from crystalframer.errors import UserError
from crystalframer.orchestration.search.study import StudyExport
from crystalframer.orchestration.tracking import gate
from crystalframer.orchestration.tracking.addresses import database_address
from crystalframer.orchestration.tracking.head import main
from tests.orchestration.heads import head_server, wait_until_answering
from tests.orchestration.many_trackers import log_at_once, lost
from tests.orchestration.postgres import PASSWORD, Postgres, postgres
from tests.orchestration.processes import command, descendants
from tests.orchestration.searches import Bench


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A server, whose password is where libpq looks for it."""
    with postgres() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSFILE", str(server.passwords))
        yield server


@pytest.fixture
def head(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A head's MLflow server on PostgreSQL, and its address."""
    token = tmp_path / "auth_token"
    token.write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", gate.required_password())
    database.create("mlflow")
    with head_server(tmp_path, "--database", database.address("mlflow")) as running:
        yield running


@pytest.mark.slow
def test_64_trials_at_once_lose_nothing_while_the_database_dies(
    head: tuple["subprocess.Popen[bytes]", str], database: Postgres, tmp_path: Path
) -> None:
    process, uri = head
    wait_until_answering(uri)

    def disturb() -> None:
        time.sleep(3)
        database.kill()
        time.sleep(5)
        database.start()

    disturbance = threading.Thread(target=disturb)
    disturbance.start()
    log_at_once(uri, "many")
    disturbance.join()
    assert lost(uri, "many") == 0
    lines = [command(pid) for pid in [process.pid, *descendants(process.pid)]]
    assert any(database.address("mlflow").partition("://")[2] in line for line in lines)
    assert not any(PASSWORD in line for line in lines)
    assert PASSWORD not in (tmp_path / "server.log").read_text()
    assert not list((tmp_path / "shared").glob("mlflow.db*"))


def test_a_study_in_postgresql_is_written_anew(database: Postgres, tmp_path: Path) -> None:
    database.create("optuna")
    address = database.address("optuna")
    bench = Bench(tmp_path, budget={"trials": 3})
    _, _, source = bench.run()
    for _ in range(2):
        StudyExport(address, bench.spec, source.trials, print).close()
        storage = optuna.storages.RDBStorage(database_address(address))
        study = optuna.load_study(study_name="planted", storage=storage)
        assert [trial.user_attrs["trial"] for trial in study.get_trials()] == [trial.name for trial in source.trials]
        storage.remove_session()
        storage.engine.dispose()
    with pytest.raises(UserError, match=r"cannot use the Optuna database postgresql://mlflow@.*/missing"):
        StudyExport(database.address("missing"), bench.spec, [], print)


def test_addresses() -> None:
    assert database_address("postgresql://mlflow@db/mlflow") == "postgresql+psycopg://mlflow@db/mlflow"
    assert database_address("postgresql+psycopg2://mlflow@db/mlflow") == "postgresql+psycopg2://mlflow@db/mlflow"
    assert database_address("sqlite:////shared/optuna.db") == "sqlite:////shared/optuna.db"
    with pytest.raises(UserError, match="cannot be read") as unreadable:
        database_address("postgresql:secret")
    assert "postgresql:secret" not in str(unreadable.value)


def test_a_password_on_the_command_line_is_refused_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    address = f"postgresql://mlflow:{PASSWORD}@db/mlflow"
    assert main(["--shared", str(tmp_path), "--local", str(tmp_path / "local"), "--database", address]) == 2
    said = capsys.readouterr().err
    assert "holds a password" in said
    assert "~/.pgpass" in said
    assert PASSWORD not in said
