"""Runs commands in processes of their own without importing everything each time: `kill -9` at random, cheaply.

    python -m tests.nursery

reads a line of JSON for each command from its standard input: its arguments, and when it is killed, after so many
seconds or before the so-many-th change of a file (neither: it is not). It answers with how long the command ran, its
exit status, and how many changes of files there were if it came to its end.
"""

import importlib
import json
import os
import signal
import sys
import time
from typing import Any

WARM = (
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "torch",
    "analysis.exporting",
    "analysis.importing",
    "analysis.make_all",
    "crystalframer.api",
    "crystalframer.data.preparation.prepare",
    "crystalframer.prediction.command",
    "crystalframer.prediction.report",
)
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
"""Audit events that change what a folder holds, beside files that are opened to be written."""


def warm_up() -> None:
    """Import what the commands need; nothing is computed yet, so that there is no thread when a process is forked."""
    for name in WARM:
        importlib.import_module(name)


def count_changes(last: int | None) -> list[int]:
    """Count the changes of files from now on, and kill this process and its children before the last one."""
    found = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes and arguments[0] != os.devnull) or event in CHANGES:
            found[0] += 1
            if found[0] == last:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
    return found


def run(arguments: list[str], seconds: float | None = None, change: int | None = None) -> dict[str, float]:
    """Run a command in a process of its own."""
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        from crystalframer.cli import main

        sys.stdout = sys.stderr
        os.setpgid(0, 0)
        changes = count_changes(change)
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        sys.stderr.flush()
        os.write(writing, str(changes[0]).encode())
        os._exit(code or 0)
    os.close(writing)
    if seconds is not None:
        while time.monotonic() - started < seconds:
            time.sleep(0.001)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:  # it has no group yet
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    took = time.monotonic() - started
    with os.fdopen(reading) as stream:
        changes_made = int(stream.read() or 0)
    return {"seconds": took, "status": os.waitstatus_to_exitcode(status), "changes": changes_made}


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
