"""A local MLflow tracking server on SQLite that lives exactly as long as the program that started it.

``runs/mlflow.db`` holds the records and ``runs/mlartifacts`` the artifacts, both served on a free port of the
loopback interface; on a cluster that has no server of its own, on every interface. Either stands behind a gate
(gate.py).
The database's tables are made aside and moved into place, so that no kill and no second process ever meets half a
schema.
"""

import contextlib
import math
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from crystalframer.atomic_files import flush_to_disk, locked
from crystalframer.environment import for_python, reach_directly
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking import die_with_parent, gate
from crystalframer.orchestration.tracking.client import ENVIRONMENT, check_server, connect
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.orchestration.tracking.first_screen import overview_page

MLFLOW_PORT = 5000
"""Where the tracking server of a cluster's head listens (head.py)."""
START_SECONDS = 300.0
"""How long a server may take until it answers."""
MOST_REVIVALS = 20
"""How often a server that died is started again in one sweep."""
LOOPBACK = "127.0.0.1"
EVERY_INTERFACE = "0.0.0.0"
_SERVER_ENVIRONMENT = {
    **ENVIRONMENT,
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "64",  # with the default of 5, some 20 clients at once make it stand still
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 0.5 GB instead of 3 GB, and ready in a quarter of the time
}


def database_uri(runs: Path) -> str:
    """Return the URI of the tracking database in a folder of runs."""
    return f"sqlite:///{(runs / 'mlflow.db').absolute()}"


def ui_command(runs: Path) -> str:
    """Return the command that shows a folder of runs in a browser."""
    artifacts = str((runs / "mlartifacts").absolute())
    options = ["--backend-store-uri", database_uri(runs), "--artifacts-destination", artifacts]
    return shlex.join(["mlflow", "ui", *options])


class LocalMlflowServer:
    """The tracking server of a folder of runs; a context manager that ends it."""

    def __init__(self, runs: Path, *, reachable_as: str | None = None) -> None:
        """Start the server without waiting for it; it gets ready in about 5 s, 10 s on a new folder.

        Args:
            runs: the folder of runs.
            reachable_as: this machine's address for the other nodes of a cluster, who sign in with the cluster's
                password; None for a server that this machine alone can reach. This process, and what it starts, is
                signed in to that one.

        Raises:
            UserError: the folder's database is damaged; it is left as it is.
        """
        self._runs = runs.absolute()
        check_database(self._runs / "mlflow.db")
        self._runs.mkdir(parents=True, exist_ok=True)
        self.log = self._runs / "mlflow-server.log"
        self.database = database_uri(self._runs)
        self.port = _free_port()
        self.uri = f"http://{reachable_as or LOOPBACK}:{self.port}"
        host = EVERY_INTERFACE if reachable_as else LOOPBACK
        server = [sys.executable, "-m", "crystalframer.orchestration.tracking.server"]
        self._command = [sys.executable, die_with_parent.__file__, *server, str(self._runs), host, str(self.port)]
        self._word = gate.required_password() if reachable_as else gate.sign_in()
        reach_directly(self.uri, ours=True)
        self._revivals = 0
        self.log.unlink(missing_ok=True)
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with os.fdopen(os.open(self.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "a") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=server_environment(self._runs / "mlartifacts") | {gate.PASSWORD_VARIABLE: self._word},
                start_new_session=True,  # Ctrl-C is for the driver, which still has runs to close
            )

    def __enter__(self) -> "LocalMlflowServer":
        """Return the server."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the server."""
        self.stop()

    def page(self, path: str) -> str:
        """Return the link that opens a page in a browser; it brings the password, and so is for its owner's eyes."""
        return f"{self.uri}/?token={self._word}#/{path}"

    def wait_until_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            UserError: it ended or did not answer in time; the message names its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while not is_answering(self.uri):
            if self._process.poll() is not None:
                raise UserError(f"the MLflow server ended at once: {self._last_words()}; see {self.log}")
            if time.monotonic() > deadline:
                raise UserError(f"the MLflow server did not answer within {START_SECONDS:g} s; see {self.log}")
            time.sleep(0.1)

    def revive(self) -> None:
        """Start the server again, at the same address, if it died; so often and no oftener."""
        if self._process.poll() is not None and self._revivals < MOST_REVIVALS:
            self._revivals += 1
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = self._start()

    def stop(self) -> None:
        """End the server and everything it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


class Tracking:
    """Where a sweep is tracked; a server of our own may still be on its way."""

    def __init__(self, uri: str, server: LocalMlflowServer | None = None) -> None:
        """Track at an address, that of `server` if it is ours."""
        self.uri = uri
        self._server = server

    def link(self, experiment: MlflowExperiment) -> str:
        """Return what opens an experiment in a browser: of a server of our own, the link that brings the password."""
        page = overview_page(experiment.id)
        if self._server is not None:
            return self._server.page(page)
        return f"{self.uri}/#/{page}" if self.uri.startswith("http") else self.uri

    def experiment(self, name: str) -> MlflowExperiment:
        """Return an experiment, once the server answers."""
        if self._server is not None:
            self._server.wait_until_ready()
            return MlflowExperiment(self.uri, name, lasting_uri=self._server.database)
        return MlflowExperiment(self.uri, name)

    def revive(self) -> None:
        """Start a server of our own again if it died."""
        if self._server is not None:
            self._server.revive()


@contextlib.contextmanager
def mlflow_of(runs: Path, uri: str | None) -> Iterator[Tracking]:
    """Use the server that the user named, or start that of a folder of runs for the duration of the block."""
    if uri is None:
        with LocalMlflowServer(runs) as server:
            yield Tracking(server.uri, server)
        return
    if uri.startswith("http"):
        check_server(uri)
    yield Tracking(uri)


def is_answering(uri: str) -> bool:
    """Return whether a tracking server of ours answers at an address."""
    reach_directly(uri, ours=True)
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def check_database(path: Path) -> None:
    """Check a tracking database, if it is there, with all that SQLite keeps beside it.

    Raises:
        UserError: it is damaged.
    """
    if path.exists() and (problem := damage(path)):
        remedy = shlex.join(["mv", *map(str, sorted(path.parent.glob("mlflow.db*"))), "SOMEWHERE_ELSE/"])
        raise UserError(
            f"MLflow's database {path} is damaged ({problem}): move it away ({remedy}) and run the sweep's own command "
            "again, which records its trials anew from their directories"
        )


def damage(database: Path) -> str:
    """Return what is wrong with a SQLite database, nothing if it is sound, or busy or closed to us."""
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error) if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else ""
    return "" if answer == "ok" else " ".join(answer.split())


def create_database(runs: Path) -> None:
    """Make the tracking database of a folder of runs unless it is there, all at once, with a write-ahead log."""
    path = runs / "mlflow.db"
    with locked(runs / ".mlflow.lock", patience=math.inf):
        if path.exists():
            return
        building = runs / ".mlflow.db.new"
        building.unlink(missing_ok=True)  # what a kill left
        connect(f"sqlite:///{building}").search_experiments()
        flush_to_disk(building)
        for suffix in ("-wal", "-shm", "-journal"):  # of a database that was moved away: SQLite would play them back
            (runs / f"mlflow.db{suffix}").unlink(missing_ok=True)
        building.replace(path)
        flush_to_disk(runs)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")


def server_environment(artifacts: Path) -> dict[str, str]:
    """Return the environment of a server's process that keeps its artifacts in a folder."""
    return for_python(**_SERVER_ENVIRONMENT, **{gate.ARTIFACTS_VARIABLE: str(artifacts)})


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def server_command(database: str, artifacts: str, host: str, port: int) -> list[str]:
    """Return the command of a tracking server behind the gate, which makes checks of host names needless."""
    options = {
        "--app-name": gate.APP_NAME,
        "--allowed-hosts": "*",
        "--backend-store-uri": database,
        "--artifacts-destination": artifacts,
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--no-access-log",  # the printed link brings the password
    }
    return [sys.executable, "-m", "mlflow", "server", *(part for option in options.items() for part in option)]


def _serve(runs: Path, host: str, port: int) -> None:
    """Become the server: runs in a process of its own, under die_with_parent.py."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not (runs / "mlflow.db").exists():
        create_database(runs)
    command = server_command(database_uri(runs), str(runs / "mlartifacts"), host, port)
    os.execv(command[0], command)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
