"""The first process of a namespace host: gives it a name and folders of its own, and buries its dead.

Run by hosts.py inside new mount, pid and uts namespaces; standard library only. ``python namespace_init.py NAME
SOURCE:TARGET...`` binds each source folder over its target and says "ready".
"""

import os
import signal
import socket
import subprocess
import sys
import time


def main(name: str, binds: list[str]) -> None:
    """Set the host up and reap its orphans until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    socket.sethostname(name)
    for bind in binds:
        source, _, target = bind.partition(":")
        if source.startswith("tmpfs="):
            options = ["-t", "tmpfs", "-o", f"size={source.removeprefix('tmpfs=')}", "tmpfs", target]
        else:
            options = ["--rbind", source, target]
        subprocess.run(["mount", *options], check=True)
    print("ready", flush=True)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
