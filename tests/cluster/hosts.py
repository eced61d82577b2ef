"""Hosts made of Linux namespaces: a network of machines within this one, for what a cluster does between machines.

A `Lab` is a network, pid, mount and uts namespace with a bridge and no way out; it plays the user's own machine. Each
`Host` is one more set of namespaces inside, with an address on the bridge, its own home, ``/tmp/ray``, ``/dev/shm`` and
sshd, and a ``/shared`` that all see, as an NFS mount would be. Everything lives below the lab's first process: when it
dies, by `close` or because the test did, the kernel ends all of it.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from crystalframer.orchestration.tracking import die_with_parent

ROOT = Path(__file__).parents[2]
INIT = Path(__file__).with_name("namespace_init.py")
BRIDGE = "bridge"
HOME = Path("/root")
"""Where sshd looks for root's files; each host has its own folder there."""
SHARED = Path("/shared")
LOCK = Path("/run/lock/crystalframer-lab")
"""Held, shared, by every lab of this machine."""
MOUNT_POINTS = (Path("/tmp/ray"), Path("/run/sshd"), SHARED)
PROGRAMS = ("unshare", "nsenter", "ip", "mount", "rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd")
SSHD = """\
HostKey {keys}/host_key
AuthorizedKeysFile {keys}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
PrintMotd no
AcceptEnv *
"""


def require_namespaces() -> None:
    """Skip the test where hosts cannot be made, and say why."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: openssh-server, rsync, iproute2, util-linux)")
    trial = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "sh", "-c"]
    trial.append("mount -t tmpfs tmpfs /mnt && ip link add br9 type bridge && ip link add ve8 type veth peer name ve9")
    tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs the right to make namespaces: {tried.stderr.strip() or tried.returncode}")


class Namespaces:
    """A set of namespaces with a first process, and how to run something in it."""

    def __init__(self, name: str, folder: Path, start: Sequence[str], binds: Sequence[str]) -> None:
        """Make them: `start` is what runs the unshare command, from outside or from within the lab."""
        self.name = name
        self.folder = folder
        for child in ("home", "ray", "sshd"):
            (folder / child).mkdir(parents=True, exist_ok=True)
        for target in MOUNT_POINTS:
            target.mkdir(parents=True, exist_ok=True)
        own = [
            *_inside_home(folder / "home"),
            f"{folder}/home:{HOME}",
            f"{folder}/ray:/tmp/ray",
            f"{folder}/sshd:/run/sshd",
            "tmpfs=512m:/dev/shm",
        ]
        unshare = ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc"]
        command = [*start, *unshare, "--net", sys.executable, str(INIT), name, *own, *binds]
        with (folder / "init.log").open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # what ends the test, a group's SIGTERM too, leaves the watchdog to its work
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", f"{name} did not start"
        self.pid = _first_process(self._process.pid)
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *command: str, env: Mapping[str, str] | None = None) -> list[str]:
        """Return what runs a command inside, in the checkout's folder."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--net", "--pid", f"--wd={ROOT}"]
        settings = [f"{name}={value}" for name, value in {"HOME": str(HOME), **(env or {})}.items()]
        return [*enter, "env", *settings, *command]

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, timeout: float = 300.0, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside and wait for it."""
        done = subprocess.run(
            self.command(*command, env=env), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{command} on {self.name}: {done.stdout}{done.stderr}"
        return done

    def processes(self) -> dict[int, str]:
        """Return the command lines of the processes inside, by the pid that this machine knows them by."""
        here = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "ns" / "pid").readlink() == here:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return {pid: line for pid, line in found.items() if line}

    def close(self) -> None:
        """Pull the plug: end everything inside at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=20)
        if self._process.stdout is not None:
            self._process.stdout.close()


class Host(Namespaces):
    """A machine in the lab."""

    def __init__(self, lab: "Lab", name: str, address: str) -> None:
        """Switch it on."""
        self.address = address
        self._lab = lab
        self._link = f"v{address.rpartition('.')[2]}-{address.split('.')[2]}"
        start = lab.command()
        super().__init__(name, lab.folder.parent / name, start, [f"{lab.shared}:{SHARED}"])
        lab.run("ip", "link", "delete", self._link, check=False)  # of a predecessor with this address
        lab.run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0")
        lab.run("ip", "link", "set", "eth0", "netns", str(_pid_as_seen_in(self.pid, 1)))
        lab.run("ip", "link", "set", self._link, "master", BRIDGE, "up")
        self.run("ip", "address", "add", f"{address}/{lab.prefix}", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("/usr/sbin/sshd", "-f", str(lab.keys / "sshd_config"))

    def link(self, state: str) -> None:
        """Set the network cable "up" or "down"."""
        self._lab.run("ip", "link", "set", self._link, state)


class Lab(Namespaces):
    """The network, and the user's own machine in it."""

    def __init__(
        self, folder: Path, address: str = "10.77.0.1", prefix: int = 24, shared_size: str | None = None
    ) -> None:
        """Make an empty network; `address` is the user's machine, `shared_size` bounds the shared storage."""
        self.prefix = prefix
        self.address = address
        self.shared = folder / "shared"
        self.keys = folder / "keys"
        self.shared.mkdir(parents=True)
        self.keys.mkdir()
        self.hosts: dict[str, Host] = {}
        for key in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.keys / key)]
            subprocess.run(command, check=True)
        (self.keys / "sshd_config").write_text(SSHD.format(keys=self.keys))
        start = [sys.executable, die_with_parent.__file__]
        binds = [] if shared_size is None else [f"tmpfs={shared_size}:{self.shared}"]
        super().__init__("laptop", folder / "laptop", start, [*binds, f"{self.shared}:{SHARED}"])
        self.run("ip", "link", "add", BRIDGE, "type", "bridge")
        self.run("ip", "address", "add", f"{address}/{prefix}", "dev", BRIDGE)
        self.run("ip", "link", "set", BRIDGE, "up")

    @property
    def shared_seen(self) -> Path:
        """The shared storage, as the hosts see it."""
        return Path(f"/proc/{self.pid}/root{SHARED}")

    def add(self, name: str, address: str) -> Host:
        """Switch a host on."""
        self.hosts[name] = Host(self, name, address)
        return self.hosts[name]

    def close(self) -> None:
        """End the whole lab."""
        for host in self.hosts.values():
            host.close()
        super().close()


@contextmanager
def lab(folder: Path, **settings: object) -> Iterator[Lab]:
    """Make a lab for the duration of the block.

    Its mount points stay while another lab uses them: to remove one would unmount it there.
    """
    own = [path for path in MOUNT_POINTS if not path.exists()]
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        made = Lab(folder, **settings)  # type: ignore[arg-type]
        try:
            yield made
        finally:
            made.close()
            with contextlib.suppress(OSError):  # someone else uses them by now
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in own:
                    path.rmdir()


def _inside_home(home: Path) -> list[str]:
    """Return what to bind so that a Python, or this checkout, below the real home is there in the host's own, too."""
    below = {path for path in (Path(sys.base_prefix), Path(sys.prefix), ROOT) if path.is_relative_to(HOME)}
    outermost = [path for path in below if not any(other in path.parents for other in below)]
    binds = []
    for path in outermost:
        inside = home / path.relative_to(HOME)
        inside.mkdir(parents=True, exist_ok=True)
        binds.append(f"{path}:{inside}")
    return binds


def _first_process(ancestor: int) -> int:
    """Return the pid, as this machine knows it, of the first process of the newest pid namespace below a process."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        queue, found = [ancestor], []
        while queue:
            pid = queue.pop()
            with contextlib.suppress(OSError):
                queue += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
                status = Path(f"/proc/{pid}/status").read_text()
                numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
                if numbers[-1] == "1":
                    found.append((len(numbers), pid))
        if found:
            return max(found)[1]
        time.sleep(0.01)
    raise AssertionError("no first process")


def _pid_as_seen_in(pid: int, level: int) -> int:
    """Return a process's pid as seen in the pid namespace `level` steps below this machine's."""
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
    return int(numbers[level])
