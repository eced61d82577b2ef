"""Run a command that must not outlive its parent, however the parent dies.

``python die_with_parent.py COMMAND...`` runs the command in a process group of its own and ends the whole group when
stdin reaches its end: the parent holds the other end of that pipe, and the operating system closes it even after
`kill -9`. Standard library only; the file is run as a script and costs a few megabytes.
"""

import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 3.0
"""Between asking the group to end and ending it."""


def main(command: list[str]) -> int:
    """Run the command until it ends or stdin does, and return its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_when_stdin_ends, args=(child.pid,), daemon=True).start()
    code = child.wait()
    _signal_group(child.pid, signal.SIGKILL)  # what the command started itself
    return code


def _end_when_stdin_ends(group: int) -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock, held here for ever, would spoil the interpreter's end
        pass
    _signal_group(group, signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, signal_number: signal.Signals) -> None:
    try:
        os.killpg(group, signal_number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
