"""What breaks in a cluster, done to one on purpose: a sweep of real trials, and the same fault again and again.

``python -m tests.cluster.chaos --times 5`` makes a cluster of namespace hosts (a head that trains nothing, three
workers, a storage that all see), runs one sweep per fault with the fault injected at random moments, and prints a table
of what was lost. Trials are compared with undisturbed ones, trained in this process, to the last bit.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crystalframer.errors import UserError
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.head import copy_database
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.training.checkpoint import read_checkpoint
from tests.cluster.hosts import ROOT, SHARED, Host, Lab, lab
from tests.cluster.launching import QUIET, SMALL, wait_for
from tests.cluster.sweeps import FRAMES, Metrics, undisturbed, write_sweep, written
from tests.runs.memory_tracker import repeats

ADDRESSES = {"head": "10.77.0.10", "one": "10.77.0.11", "two": "10.77.0.12", "three": "10.77.0.13"}
WORKERS = ("one", "two", "three")
SEEDS, EPOCHS = 4, 40
SECONDS_PER_SWEEP = 900.0
"""A sweep that is not done by then counts as lost."""
RECOVERY_SECONDS = 240.0
HEALTH = {  # a node that does not answer is given up after some 10 s instead of a minute, for the sake of the clock
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
TRACKING = "crystalframer.orchestration.tracking.head"
"""Module that starts the head's MLflow server, and starts it again."""
SERVER = "mlflow server", "uvicorn", "mlflow_gate", "multiprocessing"
"""Signs of its processes."""
DAMAGED = ("done.json", "state.json", "config.json", "metrics.jsonl", "checkpoint.pt")
"""Files of a run directory that are damaged while its sweep runs."""
CLOCK = Path("/tmp/ray/clock")
"""Where each host keeps by how many seconds its clock is off (clock.c)."""


@dataclass
class Damage:
    """What a fault cost."""

    fault: str
    times: int = 0
    """How often it was injected."""
    trials: int = 0
    lost: int = 0
    duplicated: int = 0
    """Trials with two runs in MLflow."""
    steps_missing: int = 0
    """(Trial, metric, step) that MLflow lacks or holds more than once."""
    different: int = 0
    """(Trial, metric, step) with another value than undisturbed, in MLflow or in the run directory."""
    recovery: list[float] = field(default_factory=list)
    """Seconds until as many trials as before had trained an epoch since; one that failed waits behind the others."""

    @property
    def none(self) -> bool:
        """Whether nothing was lost."""
        return self.trials > 0 and not (self.lost or self.duplicated or self.steps_missing or self.different)

    def row(self) -> str:
        """Return a line of the table."""
        seconds = f"{statistics.median(self.recovery):.0f} s / {max(self.recovery):.0f} s" if self.recovery else "–"
        cells = [self.fault, self.times, self.trials, self.lost, self.duplicated, self.steps_missing, self.different]
        return "| " + " | ".join([*map(str, cells), seconds]) + " |"


COLUMNS = (
    "fault",
    "injected",
    "trials",
    "trials lost",
    "duplicated",
    "steps missing in MLflow",
    "values different",
    "recovered after (median / longest)",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * (len(COLUMNS) - 1)}"


class Cluster:
    """Ray, MLflow and a driver on the hosts of a lab."""

    def __init__(self, network: Lab, *, own_clocks: bool = False) -> None:
        """Start it."""
        self.network = network
        network.run("ray", "get-auth-token", "--generate", env=QUIET)
        self.token = (network.folder / "home" / ".ray" / "auth_token").read_text()
        self.env = {
            **QUIET,
            **HEALTH,
            "RAY_ADDRESS": "auto",
            "RAY_worker_niceness": "0",
            "CRYSTALFRAMER_RUNS": "/shared/runs",
            "CRYSTALFRAMER_TRACKING_PORT": "5000",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        }
        if own_clocks:
            library = network.folder / "clock.so"
            source = Path(__file__).with_name("clock.c")
            subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
            self.env |= {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(CLOCK)}
        self._driver: subprocess.Popen[bytes] | None = None
        self.sweep = ""
        self.damaged: dict[Path, tuple[bytes, object]] = {}
        """What was made of a file of the sweep, and what it said before."""
        for name in ADDRESSES:
            self.switch_on(name)

    @property
    def database(self) -> Path:
        """The tracking database, on the head's disk."""
        return self.network.folder.parent / "head" / "home" / "mlflow" / "mlflow.db"

    def switch_on(self, name: str) -> None:
        """Switch a host on and start Ray there, on the head MLflow as well."""
        host = self.network.add(name, ADDRESSES[name])
        set_clock(host, 0)
        secret = host.folder / "home" / ".ray" / "auth_token"
        secret.parent.mkdir(exist_ok=True)
        secret.write_text(self.token)
        self.start_ray(host)
        if name == "head":
            self.start_tracking()

    def start_ray(self, host: Host) -> None:
        """Start Ray on a host, joining the head."""
        where = f"--node-ip-address={host.address}"
        if host.name == "head":
            small = SMALL.replace("--num-cpus=1", "--num-cpus=0").split()
            command = ["ray", "start", "--head", "--port=6379", "--include-dashboard=false", where, *small]
        else:
            command = ["ray", "start", f"--address={ADDRESSES['head']}:6379", where, *SMALL.split()]
        wait_for(lambda: host.run(*command, env=self.env, check=False).returncode == 0, 300)

    def start_tracking(self) -> None:
        """Start the head's MLflow server, which starts itself again."""
        head = self.network.hosts["head"]
        server = [sys.executable, "-m", TRACKING, "--shared", "/shared"]
        env = {name: value for name, value in self.env.items() if name != "LD_PRELOAD"}
        with (self.network.folder / "tracking.log").open("a") as log:
            subprocess.Popen(head.command(*server, env=env), stdout=log, stderr=log, start_new_session=True)

    def drive(self, sweep: str) -> None:
        """Type the one command, unless it is running."""
        if self._driver is not None and self._driver.poll() is None:
            return
        self._driver = self._type(sweep, f"driver-{sweep}.log")
        self.sweep = sweep

    def go_on(self) -> None:
        """Let nsenter go on, which stands still when the driver in it does, and does not notice that it goes on."""
        assert self._driver is not None
        kill([self._driver.pid], signal.SIGCONT)

    def rival(self) -> int:
        """Type the command while it is running, and return the exit code of the second driver."""
        return self._type(self.sweep, f"rival-{self.sweep}.log").wait(timeout=120)

    def _type(self, sweep: str, log_name: str) -> "subprocess.Popen[bytes]":
        program = [sys.executable, "pipelines/ablate_frames.py", f"/shared/{sweep}.yaml", "--checkpoint-seconds", "0.5"]
        program += ["--output", "/tmp/ray/analysis"]
        with (self.network.folder / log_name).open("a") as log:
            command = self.network.hosts["head"].command(*program, env=self.env)
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def drivers_end(self) -> int | None:
        """Return the driver's exit code, None while it runs."""
        assert self._driver is not None
        return self._driver.poll()

    def is_over(self) -> bool:
        """Return whether the driver ended well, and no damage is left that the sweep's status says how to mend."""
        return self.drivers_end() is not None and not self._follow_remedies() and self.drivers_end() == 0

    def _follow_remedies(self) -> bool:
        """Delete what sentences on damaged files say, and return whether any was; only what was damaged is named."""
        if not self.damaged:
            return False
        program = [sys.executable, "pipelines/status.py", self.sweep, "--json"]
        told = json.loads(self.network.hosts["head"].run(*program, env=self.env).stdout)
        found = [*told["remarks"], *(trial["reason"] for trial in told["trials"] if "damaged" in trial["reason"])]
        for sentence in found:
            (named,) = re.findall(rf"({SHARED}/runs/[^\s,]+)(?:, .*)? is (?:not|damaged)", sentence)
            path = self.network.shared_seen / Path(named).relative_to(SHARED)
            assert path in self.damaged, f"nobody damaged what is told: {sentence}"
            if f"delete {Path(named).parent} to run it again" in sentence:
                shutil.rmtree(path.parent)
            else:
                assert "delete this file" in sentence or "delete it" in sentence, sentence
                path.unlink(missing_ok=True)
        return bool(found)

    def pids(self, *signs: str, hosts: Sequence[str] = tuple(ADDRESSES)) -> list[int]:
        """Return the processes whose command line holds one of the signs."""
        return [
            pid
            for name in hosts
            if name in self.network.hosts
            for pid, line in self.network.hosts[name].processes().items()
            if any(sign in line for sign in signs)
        ]

    def everything(self) -> list[int]:
        """Return all processes but the hosts' own."""
        return [
            pid
            for host in self.network.hosts.values()
            for pid, line in host.processes().items()
            if "namespace_init" not in line and "sshd" not in line
        ]

    def repair(self) -> None:
        """Bring back what a fault took away: hosts, Ray on them, MLflow's supervisor."""
        for name in ADDRESSES:
            if name not in self.network.hosts:
                self.switch_on(name)
            elif not self.pids("/raylet/raylet ", hosts=[name]):
                kill(self.pids("/ray/", "ray::", hosts=[name]), signal.SIGKILL)
                self.start_ray(self.network.hosts[name])
        if not self.pids(TRACKING, hosts=["head"]):
            self.start_tracking()


def kill(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to processes that may be gone already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def set_clock(host: Host, seconds: int) -> None:
    """Say by how many seconds a host's clock is off, to processes that have the library of clock.c."""
    path = host.folder / "ray" / CLOCK.name
    with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
        file.write(struct.pack("<q", seconds))


def kill_worker(cluster: Cluster) -> None:
    """Kill -9 a process that trains."""
    if pids := cluster.pids("ray::ResourceTrainable"):
        kill([random.choice(pids)], signal.SIGKILL)


def kill_driver(cluster: Cluster) -> None:
    """Kill -9 the driver; `drive` types the command again."""
    kill(cluster.pids("pipelines/ablate_frames.py", hosts=["head"]), signal.SIGKILL)
    wait_for(lambda: cluster.drivers_end() is not None, 30)


def stop_worker(cluster: Cluster) -> None:
    """Let a process that trains stand still."""
    if pids := cluster.pids("ray::ResourceTrainable"):
        _stand_still([random.choice(pids)])


def stop_driver(cluster: Cluster) -> None:
    """Let the driver stand still."""
    _stand_still(cluster.pids("pipelines/ablate_frames.py", hosts=["head"]))
    cluster.go_on()


def stop_tracking(cluster: Cluster) -> None:
    """Let the MLflow server and all it started stand still."""
    _stand_still(cluster.pids(*SERVER, hosts=["head"]))


def _stand_still(pids: Sequence[int]) -> None:
    """SIGSTOP for 5 to 40 s."""
    kill(pids, signal.SIGSTOP)
    time.sleep(random.uniform(5, 40))
    kill(pids, signal.SIGCONT)


def second_driver(cluster: Cluster) -> None:
    """Type the same command while it is running: it is refused."""
    if cluster.drivers_end() is None and cluster.rival() == 0 and cluster.drivers_end() is None:
        raise AssertionError("a second driver ran the sweep that the first one was at")


def kill_node(cluster: Cluster) -> None:
    """Pull a worker's plug; another machine takes its place."""
    cluster.network.hosts.pop(random.choice(WORKERS)).close()
    time.sleep(random.uniform(0, 5))


def cut_link(cluster: Cluster) -> None:
    """Unplug a worker's network for 2 to 25 s; its trial goes on by itself, and still sees the storage."""
    host = cluster.network.hosts[random.choice(WORKERS)]
    host.link("down")
    time.sleep(random.uniform(2, 25))
    host.link("up")
    time.sleep(10)  # a node that was given up ends its own Ray when it hears of it


def kill_tracking(cluster: Cluster) -> None:
    """Kill -9 the MLflow server and all it started; its supervisor starts it again."""
    kill(cluster.pids(*SERVER, hosts=["head"]), signal.SIGKILL)


def lock_database(cluster: Cluster) -> None:
    """Hold the tracking database's lock for 60 s."""
    with contextlib.closing(sqlite3.connect(cluster.database, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(60)
        connection.execute("ROLLBACK")


def fill_storage(cluster: Cluster) -> None:
    """Leave no byte on the shared storage for 3 to 15 s."""
    filler = cluster.network.shared_seen / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 65536)
    time.sleep(random.uniform(3, 15))
    filler.unlink()


def jump_clock(cluster: Cluster) -> None:
    """Set the clock of a host, for Ray, driver and workers there, up to a day forward or back."""
    set_clock(
        cluster.network.hosts[random.choice(list(ADDRESSES))], random.choice([-1, 1]) * random.randrange(60, 86400)
    )


def terminate_everything(cluster: Cluster) -> None:
    """SIGTERM to every process: workers, Ray's own, driver, MLflow; what hangs is killed after 20 s."""
    kill(cluster.everything(), signal.SIGTERM)
    deadline = time.monotonic() + 20
    while cluster.everything() and time.monotonic() < deadline:
        time.sleep(0.5)
    kill(cluster.everything(), signal.SIGKILL)
    wait_for(lambda: cluster.drivers_end() is not None, 30)


def damage_trial(cluster: Cluster) -> None:
    """Damage a file of a trial that is done or one that runs; what trains is killed, and reads its files again."""
    folder = cluster.network.shared_seen / "runs" / cluster.sweep
    done = random.random() < 0.5
    files = [
        path
        for path in folder.glob("*seed*/*")
        if path.name in DAMAGED and path not in cluster.damaged and path.with_name("done.json").exists() == done
    ]
    if files:
        path = random.choice(files)
        sound = path.read_bytes()
        content = _garbled(sound)
        with tempfile.TemporaryDirectory() as copy:
            (Path(copy) / path.name).write_bytes(sound)
            cluster.damaged[path] = content, _said_by(Path(copy) / path.name)
        path.write_bytes(content)
    kill(cluster.pids("ray::ResourceTrainable"), signal.SIGKILL)


def _garbled(content: bytes) -> bytes:
    """Return other bytes: another digit, a flipped bit, nothing from some place on, or a block of zeros."""
    place = random.randrange(len(content))
    flipped = bytes([content[place] ^ 1 << random.randrange(8)])
    digits = [digit.start() for digit in re.finditer(rb"\d", content)]
    digit = random.choice(digits)
    return random.choice(
        (
            content[:digit] + b"%d" % ((int(content[digit : digit + 1]) + 1) % 10) + content[digit + 1 :],
            content[:place] + flipped + content[place + 1 :],
            content[:place],
            content[:place] + bytes(len(content[place : place + 200])) + content[place + 200 :],
        )
    )


def _said_by(path: Path) -> object:
    """Return what a file of a run directory says."""
    directory = RunDirectory(path.parent)
    if path == directory.checkpoint:
        checkpoint = read_checkpoint(path)
        return checkpoint.progress, checkpoint.history, [each.numpy().tobytes() for each in checkpoint.model.values()]
    reads: dict[str, Callable[[], object]] = {
        "done.json": directory.result,
        "state.json": directory.state,
        "config.json": directory.identity,
        "metrics.jsonl": directory.records,
    }
    return reads[path.name]()


def _is_silent(path: Path, content: bytes, sound: object) -> bool:
    """Return whether a damaged file still lies there and is read as if it were sound, but says something else."""
    if not path.exists() or path.read_bytes() != content:
        return False
    try:
        return _said_by(path) != sound
    except UserError as error:
        return str(path) not in str(error)


FAULTS: dict[str, Callable[[Cluster], None]] = {
    "trial worker, kill -9": kill_worker,
    "driver, kill -9": kill_driver,
    "trial worker stands still for 5 to 40 s": stop_worker,
    "driver stands still for 5 to 40 s": stop_driver,
    "a second driver on the sweep": second_driver,
    "node with its children": kill_node,
    "link down for 2 to 25 s": cut_link,
    "tracking server, kill -9": kill_tracking,
    "tracking server stands still for 5 to 40 s": stop_tracking,
    "tracking database locked for 60 s": lock_database,
    "shared storage full for 3 to 15 s": fill_storage,
    "a file of a run directory damaged": damage_trial,
    "clock jumps by up to a day": jump_clock,
    "SIGTERM of everything": terminate_everything,
}


def epochs_by_trial(folder: Path) -> dict[str, int]:
    """Return the epochs on record of each trial that was started."""
    return {path.parent.name: path.read_bytes().count(b"\n") for path in folder.glob("*seed*/metrics.jsonl")}


def disturb(cluster: Cluster, fault: str, times: int, expected: Metrics) -> Damage:
    """Run sweeps, one after another if need be, and inject a fault so often; return what was lost."""
    damage = Damage(fault)
    number = 0
    while damage.times < times:
        number += 1
        assert number <= 2 * times, f"{fault}: sweeps end too soon"
        sweep = f"{FAULTS[fault].__name__}-{number}"
        write_sweep(cluster.network.shared_seen / f"{sweep}.yaml", seeds=SEEDS, epochs=EPOCHS)
        _run_one(cluster, sweep, damage, times)
        _count(cluster, sweep, damage, expected)
        shutil.rmtree(cluster.network.shared_seen / "mlartifacts", ignore_errors=True)
    return damage


def _run_one(cluster: Cluster, sweep: str, damage: Damage, times: int) -> None:
    folder = cluster.network.shared_seen / "runs" / sweep
    total = SEEDS * len(FRAMES)
    began = time.monotonic()
    cluster.drive(sweep)
    while time.monotonic() - began < SECONDS_PER_SWEEP and not cluster.is_over():
        cluster.drive(sweep)
        running = _unfinished(folder)
        if damage.times >= times or not running or len(list(folder.glob("*/done.json"))) >= total - 3:
            time.sleep(0.5)
            continue
        time.sleep(random.uniform(0.2, 3))
        running, before = _unfinished(folder), epochs_by_trial(folder)
        injected = time.monotonic()
        damage.times += 1
        FAULTS[damage.fault](cluster)
        cluster.repair()
        cluster.drive(sweep)
        while not _trains_again(folder, before, len(running)) and time.monotonic() - injected < RECOVERY_SECONDS:
            cluster.drive(sweep)
            time.sleep(0.2)
        damage.recovery.append(time.monotonic() - injected)
    damage.different += sum(_is_silent(path, *was) for path, was in cluster.damaged.items())
    cluster.damaged.clear()


def _unfinished(folder: Path) -> dict[str, int]:
    """Return the epochs of the trials that were started and are not done."""
    return {name: n for name, n in epochs_by_trial(folder).items() if not (folder / name / "done.json").exists()}


def _trains_again(folder: Path, before: dict[str, int], trials: int) -> bool:
    """Whether so many trials, or all that are left, have trained an epoch since."""
    now = epochs_by_trial(folder)
    done = len(list(folder.glob("*/done.json")))
    return sum(n > before.get(name, 0) for name, n in now.items()) >= trials or done == SEEDS * len(FRAMES)


def _count(cluster: Cluster, sweep: str, damage: Damage, expected: Metrics) -> None:
    on_disk = written(cluster.network.shared_seen / "runs" / sweep)
    damage.trials += len(expected)
    damage.lost += len(expected.keys() - on_disk.keys())
    for name in expected.keys() & on_disk.keys():
        damage.different += len(set(expected[name].items()) ^ set(on_disk[name].items()))
    copy = cluster.network.folder / f"{sweep}.db"
    copy_database(cluster.database, copy)
    client = connect(f"sqlite:///{copy}")
    experiment = client.get_experiment_by_name(sweep)
    every = [] if experiment is None else client.search_runs([experiment.experiment_id], max_results=1000)
    runs = [run for run in every if not {"kind", "earlier_run_of"} & run.data.tags.keys()]
    # trials: neither the summary nor what a trial that was deleted had recorded
    names = Counter(run.data.tags["run_key"] for run in runs)
    damage.duplicated += sum(count - 1 for count in names.values()) + len(names.keys() - expected.keys())
    damage.lost += len(expected.keys() - {run.data.tags["run_key"] for run in runs if run.info.status == "FINISHED"})
    for run in runs:
        found: Counter[tuple[str, int]] = Counter()
        wanted = expected.get(run.data.tags["run_key"], {})
        for metric in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, metric):
                found[metric, point.step] += 1
                damage.different += repeats(metric) and wanted.get((metric, point.step)) != point.value
        damage.steps_missing += len(wanted.keys() - found.keys()) + sum(n - 1 for n in found.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the faults and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=5, help="how often each fault is injected (default: 5)")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the random moments")
    parser.add_argument("--undisturbed", type=Path, help="file that keeps what undisturbed trials come to")
    options = parser.parse_args(argv)
    random.seed(options.seed)
    print(f"moments drawn with seed {options.seed}", flush=True)
    found = run_faults(options.fault or list(FAULTS), options.times, options.undisturbed)
    print("\n".join([HEADER, *(damage.row() for damage in found)]))
    return 0 if all(damage.none for damage in found) else 1


def expectation(folder: Path, kept: Path | None) -> Metrics:
    """Return what the trials come to undisturbed, from a file or by training them here."""
    if kept is not None and kept.exists():
        return {name: {(m, n): v for m, n, v in points} for name, points in json.loads(kept.read_text()).items()}
    sweep = load_sweep(write_sweep(folder / "undisturbed.yaml", seeds=SEEDS, epochs=EPOCHS))
    expected = undisturbed(sweep, folder / "undisturbed")
    if kept is not None:
        kept.write_text(json.dumps({name: [(*key, v) for key, v in run.items()] for name, run in expected.items()}))
    return expected


def run_faults(faults: Sequence[str], times: int, kept: Path | None = None) -> list[Damage]:
    """Run faults one after another on one cluster, those of the clock on one of their own."""
    found = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        expected = expectation(Path(folder), kept)
        print("undisturbed trials are there", flush=True)
        for own_clocks in (False, True):
            wanted = [fault for fault in faults if (FAULTS[fault] is jump_clock) == own_clocks]
            if not wanted:
                continue
            with lab(Path(folder) / f"lab-{own_clocks}", shared_size="200m") as network:
                cluster = Cluster(network, own_clocks=own_clocks)
                for fault in wanted:
                    found.append(disturb(cluster, fault, times, expected))
                    print(found[-1].row(), flush=True)
    return found


if __name__ == "__main__":
    assert ROOT.is_dir()
    sys.exit(main())
