"""The commands of docs/clusters.md, typed on the user's machine of a lab; and cluster files made to fit its hosts."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import ROOT, Lab
from tests.cluster.page import NOT_TYPED, PAGE

SMALL = "--num-cpus=1 --object-store-memory=80000000"
"""What each `ray start` gets here: many hosts on few cores."""
QUIET = {
    "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_UP_enable_autoscaler_v2": "0",
    "LC_ALL": "C.UTF-8",
}


class Launcher:
    """The user, with a cluster file of the repository, edited."""

    def __init__(self, lab: Lab, name: str, config: dict[str, Any], env: dict[str, str] | None = None) -> None:
        """Write the file; `name` is what the page calls it."""
        self._lab = lab
        self._name = name
        self._env = {**QUIET, **(env or {})}
        self.file = lab.folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.log = lab.folder / "commands.log"
        self.typed: dict[str, str] = {}
        """What each line of the page said."""
        self._exports: list[str] = []

    @property
    def token(self) -> str:
        """The cluster's token."""
        return (self._lab.folder / "home" / ".ray" / "auth_token").read_text().strip()

    def type(self, line: str, more: str = "", *, folder: Path = ROOT) -> float:
        """Type a line of the page, answering yes where it asks, and return how long it took.

        Args:
            line: as the page has it; its file stands for the edited one.
            more: options of the program that it starts on the head, to make it short.
            folder: where to type it.
        """
        assert line in PAGE.text, f"docs/clusters.md has no {line!r}"
        started = time.monotonic()
        self.typed[line] = self._run(f"cd {folder} && {self._edited(line, more)}")
        if line.startswith("export "):
            self._exports.append(line)
        return time.monotonic() - started

    def type_section(self, title: str, until: str) -> float:
        """Type the lines of a section up to one, and return how long that one took."""
        before, _, _ = "\n".join(PAGE.commands(title)).partition(f"\n{until}")
        for line in before.splitlines():
            if line not in NOT_TYPED:
                self.type(line)
        return self.type(until)

    @contextmanager
    def typing(self, line: str) -> Iterator[None]:
        """Type a line of the page that goes on until Ctrl-C, for the duration of the block."""
        assert line in PAGE.text, f"docs/clusters.md has no {line!r}"
        script = "\n".join([*self._exports, f"exec {self._edited(line)}"])
        command = self._lab.command("bash", "-c", script, env={**self._env, "CLUSTER": str(self.file)})
        with self.log.open("a") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.typed[line] = ""

    def exec(self, command: str, *, check: bool = True) -> str:
        """Run a command on the head that the page does not have."""
        return self._run(f'ray exec "$CLUSTER" {shlex.quote(command)}', check=check)

    def _edited(self, line: str, more: str = "") -> str:
        if more:
            assert line.endswith('"')
            line = f'{line[:-1]} {more}"'
        line = line.replace(f" {self._name}", f" {self.file}")
        if line.startswith(("ray up ", "ray down ")):
            line += " --yes"  # without a terminal Ray does not ask
        return line.replace("ray up ", "ray up --no-config-cache ")  # or it keeps notes in this machine's /tmp

    def _run(self, script: str, *, check: bool = True) -> str:
        started = time.monotonic()
        command = ["bash", "-c", "\n".join([*self._exports, script])]
        done = self._lab.run(*command, env={**self._env, "CLUSTER": str(self.file)}, timeout=1200, check=False)
        output = done.stdout + done.stderr
        with self.log.open("a") as log:
            log.write(f"$ {script}    ({time.monotonic() - started:.0f} s)\n{output}\n")
        assert not check or done.returncode == 0, output[-5000:]
        return output


def wait_for(what: Callable[[], bool], seconds: float, why: Callable[[], str] = str) -> float:
    """Wait until something is so, and return how long it took."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < seconds, f"not within {seconds:g} s: {why()}"
        time.sleep(0.5)
    return time.monotonic() - started


def fitted(name: str, lab: Lab) -> dict[str, Any]:
    """Return a cluster file of the repository as it would be edited for a lab's hosts, with the environment there."""
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.keys / "user_key")}
    config["setup_commands"] = [
        f"ln -sfn {sys.prefix} ~/crystalframer-environment" if "venv" in command and "pip" not in command else command
        for command in config["setup_commands"]
        if "pip install" not in command
    ]
    config["worker_setup_commands"] = []  # which ask for a GPU
    own = "$(hostname -I | cut -d' ' -f1)"  # these hosts have no default route, by which Ray finds its address
    for which in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[which] = [
            command.replace("ray start ", f"ray start {SMALL} --node-ip-address={own} ") for command in config[which]
        ]
    return config


def listening_beyond_loopback(host_run: Callable[..., "subprocess.CompletedProcess[str]"]) -> set[int]:
    """Return the ports of a host that others can reach."""
    lines = host_run("cat", "/proc/net/tcp").stdout.splitlines()[1:]
    fields = [line.split() for line in lines]
    return {
        int(f[1].partition(":")[2], 16)
        for f in fields
        if f[3] == "0A" and not f[1].endswith("7F") and f[1][6:8] != "7F"
    }


def copy_of(path: Path, folder: Path) -> Path:
    """Return a fresh place for a copy of a file."""
    return folder / f"copy-{time.monotonic_ns()}-{path.name}"
