"""The MLflow server of a cluster, on its head, for as long as the head lives.

``python -m crystalframer.orchestration.tracking.head --shared /shared`` serves port 5000 behind the gate (gate.py)
and starts the server again when it dies. Artifacts are kept on the shared storage. The records are in SQLite on the
head's own disk, since SQLite and network file systems do not get on; a copy goes to the shared storage every minute
in which something changed, and a new head starts from that copy. With ``--database`` they are in PostgreSQL instead,
whose password libpq finds in ``~/.pgpass``.
"""

import argparse
import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from crystalframer.atomic_files import locked, replacing
from crystalframer.command_line import reports_user_errors
from crystalframer.environment import expanded
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking import die_with_parent
from crystalframer.orchestration.tracking.addresses import database_address
from crystalframer.orchestration.tracking.gate import required_password
from crystalframer.orchestration.tracking.server import (
    EVERY_INTERFACE,
    MLFLOW_PORT,
    create_database,
    database_uri,
    server_command,
    server_environment,
)

COPY_SECONDS = 60.0
"""Between two copies of the database, and so what a lost head can cost MLflow; the run directories restore it."""
LONGEST_PAUSE = 30.0
"""Longest wait before a server that keeps dying is started again, in seconds."""
STEADY_SECONDS = 60.0
"""A server that lived so long is started again at once."""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until SIGTERM."""
    options = _parser().parse_args(argv)
    required_password()
    local = expanded(options.local).absolute()
    local.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(local / ".head-server.lock"))
        except BlockingIOError:
            print(f"a server on {local} is running already")
            return 0
        return _run(options, local)


def _run(options: argparse.Namespace, local: Path) -> int:
    database = None if options.database is None else database_address(options.database)
    copy: Path | None = None
    if database is None:
        copy = options.shared / "mlflow.db"
        if not (local / "mlflow.db").exists() and copy.exists():
            _replace(copy, local / "mlflow.db")
        create_database(local)
        database = database_uri(local)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    artifacts = options.shared / "mlartifacts"
    command = server_command(database, str(artifacts), EVERY_INTERFACE, options.port)
    _serve(command, server_environment(artifacts), stop, local, copy)
    if copy is not None:
        copy_database(local / "mlflow.db", copy)
    return 0


def _serve(
    command: Sequence[str], environment: dict[str, str], stop: threading.Event, local: Path, copy: Path | None
) -> None:
    """Keep a server running, and copy the database, until told to stop."""
    pause, copied = 1.0, 0.0
    content: Content | None = None
    while not stop.is_set():
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, die_with_parent.__file__, *command],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert process.stdin is not None
        while process.poll() is None and not stop.wait(1.0):
            if copy is not None and time.monotonic() - copied > COPY_SECONDS:
                copied = time.monotonic()
                content = _copy_changed(local / "mlflow.db", copy, content)
        process.stdin.close()  # die_with_parent.py ends what is left
        process.wait()
        pause = 1.0 if time.monotonic() - started > STEADY_SECONDS else min(2 * pause, LONGEST_PAUSE)
        if not stop.is_set():
            print(f"the server ended; starting it again in {pause:g} s", flush=True)
            stop.wait(pause)


Content = list[tuple[str, int, int]]
"""Name, size and time of the files that hold a SQLite database, which no two states of it share."""


def _copy_changed(database: Path, copy: Path, copied: Content | None) -> Content | None:
    """Copy the database unless that was done with this content; return the content of the last copy.

    Times are compared for equality alone: a clock that was set back makes later changes look older than the copy.
    """
    files = [(path.name, path.stat()) for path in (database, database.with_name("mlflow.db-wal")) if path.exists()]
    content = [(name, status.st_size, status.st_mtime_ns) for name, status in files]
    if content == copied:
        return copied
    try:
        copy_database(database, copy)
    except OSError as error:  # the storage is full or away: the next minute tries again
        print(f"could not copy the database to {copy}: {error}", flush=True)
        return copied
    return content


def copy_database(database: Path, copy: Path) -> None:
    """Copy a SQLite database that is in use; whoever reads the copy sees the former or the new one."""
    whole = database.with_name(".mlflow.db.copy")
    whole.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(whole)) as target:
        source.backup(target)
    _replace(whole, copy)
    whole.unlink()


def _replace(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise UserError(f"--shared {text!r} is no folder; mount the shared storage there first")
    return path.absolute()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="head", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=_folder, required=True, help="folder on storage that outlives the head")
    parser.add_argument("--local", type=Path, default=Path("~/mlflow"), help="folder of the SQLite database")
    parser.add_argument("--database", metavar="URI", help="e.g. postgresql://mlflow@HOST/mlflow (default: SQLite)")
    parser.add_argument("--port", type=int, default=MLFLOW_PORT, help="(default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
