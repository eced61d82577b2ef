"""`ray up` and what follows it, typed on the user's machine of a lab; and cluster files made to fit its hosts."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import ROOT, Lab

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
    """The user, with a cluster file."""

    def __init__(self, lab: Lab, config: dict[str, Any], env: dict[str, str] | None = None) -> None:
        """Make the cluster's token and write the file."""
        self._lab = lab
        self._env = {**QUIET, **(env or {})}
        self.file = lab.folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.log = lab.folder / "commands.log"
        lab.run("ray", "get-auth-token", "--generate", env=self._env)

    @property
    def token(self) -> str:
        """The cluster's token."""
        return (self._lab.folder / "home" / ".ray" / "auth_token").read_text().strip()

    def ray(self, *arguments: str, timeout: float = 300.0, check: bool = True) -> str:
        """Type a command, and return what it says."""
        started = time.monotonic()
        done = self._lab.run("ray", *arguments, env=self._env, timeout=timeout, check=False)
        output = done.stdout + done.stderr
        with self.log.open("a") as log:
            log.write(f"$ ray {' '.join(arguments)}    ({time.monotonic() - started:.0f} s)\n{output}\n")
        assert not check or done.returncode == 0, output[-5000:]
        return output

    def up(self) -> float:
        """Start the cluster and return how long that took."""
        started = time.monotonic()
        self.ray("up", "--yes", "--no-config-cache", str(self.file), timeout=400)
        return time.monotonic() - started

    def down(self) -> float:
        """End the cluster and return how long that took."""
        started = time.monotonic()
        self.ray("down", "--yes", str(self.file))
        return time.monotonic() - started

    def exec(self, command: str, *, check: bool = True) -> str:
        """Run a command on the head."""
        return self.ray("exec", str(self.file), command, check=check)


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
