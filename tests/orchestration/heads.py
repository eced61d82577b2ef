"""The MLflow server of a cluster's head, as a process of its own."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from crystalframer.orchestration.tracking.server import is_answering
from tests.orchestration.processes import all_gone, descendants


@contextlib.contextmanager
def head_server(folder: Path, *further: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run it for the duration of the block, on ``folder/shared`` and ``folder/local``, its output in a log there.

    Yields the process and the server's address; `further` are more arguments of its command line.
    """
    (folder / "shared").mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    arguments = ["--shared", str(folder / "shared"), "--local", str(folder / "local"), "--port", port, *further]
    command = [sys.executable, "-m", "crystalframer.orchestration.tracking.head", *arguments]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield process, f"http://127.0.0.1:{port}"
    family = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert all_gone(family)


def wait_until_answering(uri: str) -> None:
    """Wait for a server."""
    deadline = time.monotonic() + 90
    while not is_answering(uri):
        assert time.monotonic() < deadline
        time.sleep(0.1)
