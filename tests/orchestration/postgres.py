"""A PostgreSQL server of a test's own, on loopback, with a password."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "a-word-that-must-not-be-found-anywhere-else"
USER = "mlflow"


def programs() -> Path:
    """Return the folder of PostgreSQL's programs, or skip the test."""
    candidates = [Path(found).resolve().parent for found in [shutil.which("initdb"), shutil.which("postgres")] if found]
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # Debian keeps them off the path
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("needs PostgreSQL's server (Debian: postgresql)")


class Postgres:
    """A server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Make its files, and start it."""
        self._bin = programs()
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("needs a user postgres, as root cannot be the server")
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        word = folder / "word"
        word.write_text(PASSWORD)
        if self._as:
            for path in (folder, self._data, word):
                os.chown(path, self._as["user"], self._as["group"])
        how = ["--username", USER, "--auth", "scram-sha-256", "--pwfile", str(word), "--no-sync"]
        self._do("initdb", "--pgdata", str(self._data), *how)
        word.unlink()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.passwords = folder / "pgpass"
        self.passwords.write_text(f"127.0.0.1:{self.port}:*:{USER}:{PASSWORD}\n")
        self.passwords.chmod(0o600)
        self._log = folder / "log"
        self._process = self._start()

    def address(self, database: str) -> str:
        """Return a database's address."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> None:
        """Make a database."""
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--username", USER, "--no-password"]
        environment = {**os.environ, "PGPASSFILE": str(self.passwords)}
        subprocess.run([self._bin / "createdb", *where, database], env=environment, check=True)

    def kill(self) -> None:
        """Kill -9 the server and its children."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=20)

    def start(self) -> None:
        """Start it again."""
        self._process = self._start()

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # without waiting for its clients
            self._process.wait(timeout=30)

    def _start(self) -> "subprocess.Popen[bytes]":
        settings = ["-h", "127.0.0.1", "-p", str(self.port), "-k", "", "-c", "fsync=off"]
        with self._log.open("a") as log:
            command = [str(self._bin / "postgres"), "-D", str(self._data), *settings]
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, **self._as
            )
        deadline = time.monotonic() + 30
        while subprocess.run([self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode:
            assert process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)
        return process

    def _do(self, program: str, *arguments: str) -> None:
        done = subprocess.run([self._bin / program, *arguments], capture_output=True, text=True, **self._as)
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server for the duration of the block."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # not pytest's, which is closed to other users
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
