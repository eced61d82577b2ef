"""Runs commands in processes of their own without importing everything each time: `kill -9` at random, cheaply.

    python -m tests.nursery

reads a line of JSON for each command from its standard input: its arguments, and after how many seconds it is killed
(null: it is not). It answers with how long the command ran, and its exit status.
"""

import importlib
import json
import os
import signal
import sys
import time

WARM = (
    "matplotlib.figure",
    "mlflow.pyfunc",
    "pandas",
    "torch",
    "crystalframer.api",
    "crystalframer.prediction.command",
)


def warm_up() -> None:
    """Import what the commands need; nothing is computed yet, so that there is no thread when a process is forked."""
    for name in WARM:
        importlib.import_module(name)


def run(arguments: list[str], seconds: float | None) -> dict[str, float]:
    """Run a command in a process of its own."""
    started = time.monotonic()
    child = os.fork()
    if not child:
        from crystalframer.cli import main

        sys.stdout = sys.stderr
        os.setpgid(0, 0)
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        sys.stderr.flush()
        os._exit(code or 0)
    if seconds is not None:
        while time.monotonic() - started < seconds:
            time.sleep(0.001)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:  # it has no group yet
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return {"seconds": time.monotonic() - started, "status": os.waitstatus_to_exitcode(status)}


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
