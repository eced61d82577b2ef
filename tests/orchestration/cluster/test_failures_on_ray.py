"""Every kind of failure, through a real Ray: what the user reads, what is done about it, and how the sweep ends."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError

from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.failures import KILLED_FOR_MEMORY, LOST_NODE, WORKER_DIED, Failure
from crystalframer.orchestration.cluster.session import ray_session, require_listener
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.orchestration.tracking.server import database_uri
from tests.orchestration.conftest import PIPELINE, ROOT, TINY, WriteSweep
from tests.orchestration.failing_training import KINDS

pytestmark = pytest.mark.slow

AGAIN = "it will resume from its last checkpoint"
MEMORY = "it will resume with one trial less beside it"
DISK = "free space on the disk; it will try again in 10 s"
EXPECTED = {  # by kind: the reason, what is done about it, and the policy; as the table of docs/search.md has it
    "full disk": ("OSError: [Errno 28] No space left on device", DISK, "full disk"),
    "full disk beneath": ("RuntimeError: writing failed", DISK, "full disk"),
    "memory": ("MemoryError: 1 TiB", MEMORY, "out of memory"),
    "memory refused": ("DefaultCPUAllocator", MEMORY, "out of memory"),
    "mistake": ("the batch is too large: choose a smaller one", "", "would repeat"),
    "divergence": ("TrainingDivergedError: training diverged in epoch 1", "", "would repeat"),
    "superseded": ("SupersededError: another attempt took over", AGAIN, "other failures"),
    "lost process": ("LostProcessError: another process of the training is gone", AGAIN, "other failures"),
    "stranger": ("StrangersError: this and that", AGAIN, "other failures"),
    "killed": (WORKER_DIED, AGAIN, "other failures"),
}
PASSES = ("none", "full disk", "full disk beneath", "lost tracker")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """A sweep with a trial for each kind of failure, each tried again once: exit code, output and folder."""
    import yaml

    folder = tmp_path_factory.mktemp("failures")
    prose = {"question": "What fails how?", "expectation": "As documented.", "command": "python", "duration": "1 min"}
    train = {**TINY["train"], "epochs": 2, "average_epochs": 1}
    grid = {"train.seed": list(range(len(KINDS)))}
    path = folder / "failing.yaml"
    path.write_text(yaml.safe_dump({**prose, "base": {**TINY, "train": train}, "grid": grid, "max_failures": 1}))
    environment = {**os.environ, "FAILED": str(folder), "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    command = [sys.executable, str(PIPELINE), str(path), "--runs", str(folder / "runs"), "--output", str(folder)]
    command += ["--trainer", "tests.orchestration.failing_training:FailingTrainer"]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, folder / "runs" / "failing"


def of_kind(folder: Path, kind: str) -> dict[str, Any]:
    """Return what the report says of the trial that fails in this way."""
    trials: list[dict[str, Any]] = json.loads((folder / "report.json").read_text())["trials"]
    return next(trial for trial in trials if f"seed{KINDS.index(kind)}-" in f"{trial['name']}-")


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_driver_hears_the_reason_and_does_what_is_documented(sweep: tuple[int, str, Path], kind: str) -> None:
    _, output, folder = sweep
    reason, remedy, _ = EXPECTED[kind]
    trial = of_kind(folder, kind)
    said = [line for line in output.splitlines() if trial["name"] in line and reason in line]
    assert said, output
    assert (remedy in said[0]) if remedy else not any("it will" in line for line in said)
    if kind in PASSES:
        assert trial["fate"] == "done"
        return
    assert trial["fate"] == "failed"
    assert reason in trial["reason"]
    tracebacks = (folder / trial["name"] / "error.txt").exists()
    assert tracebacks == (kind not in ("killed", "superseded")), "they may not, or cannot, write"


def test_the_policies_act_as_often_as_they_may(sweep: tuple[int, str, Path]) -> None:
    code, output, folder = sweep
    assert code == 1
    assert f"{len(KINDS) - len(PASSES)} of {len(KINDS)} trials failed" in output
    corrections = json.loads((folder / "report.json").read_text())["corrections"]
    policies = [policy for _, _, policy in EXPECTED.values() if policy != "would repeat"]
    assert corrections == {policy: policies.count(policy) for policy in set(policies)}
    assert of_kind(folder, "none")["fate"] == "done"


def test_a_tracker_that_is_lost_is_started_again_and_fails_no_trial(sweep: tuple[int, str, Path]) -> None:
    folder = sweep[2]
    trial = of_kind(folder, "lost tracker")
    assert trial["fate"] == "done"
    assert "Uvicorn running" in (log := (folder.parent / "mlflow-server.log").read_text())
    assert log.count("Started server process") > 1, log
    runs = MlflowExperiment(database_uri(folder.parent), folder.name).runs()
    assert runs[trial["name"]].status == "FINISHED"


def test_a_relative_path_means_in_a_worker_what_it_means_to_the_driver(sweep: tuple[int, str, Path]) -> None:
    folder = sweep[2].parents[1]
    assert (folder / "works in").read_text() == str(folder), "the working directory is the driver's"


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    """A head without processors and a node with one, on this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def test_a_lost_node_is_told_apart_from_a_killed_worker(two_nodes: Cluster) -> None:
    @ray.remote(num_cpus=1)
    class Worker:
        def pid(self) -> int:
            return os.getpid()

        def wait(self) -> None:
            time.sleep(600)

    node = two_nodes.add_node(num_cpus=1)
    found = []
    for lost in (False, True):
        worker = Worker.remote()  # type: ignore[attr-defined]
        pid = ray.get(worker.pid.remote())
        waiting = worker.wait.remote()
        if lost:
            two_nodes.remove_node(node, allow_graceful=False)
        else:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(RayActorError) as ended:
            ray.get(waiting, timeout=120)
        found.append(Failure.of_lost_worker(str(ended.value)).reason)
    assert found == [WORKER_DIED, LOST_NODE]


def test_a_worker_that_the_memory_monitor_kills_is_told_apart() -> None:
    program = """
import time, ray
from crystalframer.orchestration.cluster.failures import Failure, OutOfMemory
from crystalframer.orchestration.cluster.session import ray_session
with ray_session(None, 1):
    @ray.remote
    class Worker:
        def wait(self):
            time.sleep(600)
    try:
        ray.get(Worker.remote().wait.remote(), timeout=500)
    except ray.exceptions.RayError as error:
        failure = Failure.of_lost_worker(str(error))
        print(failure.reason, OutOfMemory().detects(failure), sep=": ")
"""
    all_is_too_much = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | all_is_too_much, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == f"{KILLED_FOR_MEMORY}: True\n"


def test_a_ray_of_our_own_listens_on_loopback_alone() -> None:
    program = """
import os, ray
from crystalframer.orchestration.cluster.session import ray_session
import psutil
with ray_session(None, 1):
    ray.get(ray.remote(lambda: 1).remote())
    pids = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in pids}
print(*sorted(listening))
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split(), done.stderr
    assert {address.removeprefix("::ffff:") for address in done.stdout.split()} <= {"127.0.0.1", "::1"}


def test_nobody_else_enters_rays_folder_and_it_goes() -> None:
    program = """
import pathlib, tempfile
from crystalframer.orchestration.cluster.session import ray_session
place = pathlib.Path(tempfile.gettempdir())
with ray_session(None, 1):
    (folder,) = place.iterdir()
    assert any(folder.glob("*/session_*/sockets/*")), list(folder.iterdir())
    print(oct(folder.stat().st_mode & 0o777))
print(*place.iterdir())
"""
    with tempfile.TemporaryDirectory(prefix="cf", dir="/tmp") as place:  # short, as Ray's sockets need
        environment = {**os.environ, "TMPDIR": place}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    assert done.stdout.split() == ["0o700"], done.stderr


def test_a_cluster_that_is_gone_is_said_at_once(write_sweep: WriteSweep, tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(PIPELINE), str(write_sweep()), "--runs", str(tmp_path / "runs")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: no Ray cluster answers at RAY_ADDRESS '127.0.0.1:9'; start one, or unset it for a Ray of its own\n"
    )
    assert time.monotonic() - started < 60
    with pytest.raises(UserError, match=re.escape("at --address '127.0.0.1:9'")):
        require_listener("127.0.0.1:9")


def test_a_trial_that_no_node_could_run_is_refused_on_a_fixed_cluster(
    two_nodes: Cluster, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    two_nodes.add_node(num_cpus=2)
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_ADDRESS": two_nodes.address}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/mlflow.db"
    command = [sys.executable, str(PIPELINE), str(write_sweep()), "--runs", str(tmp_path / "runs")]
    for wanted in ("resources.gpus_per_trial=1", "resources.cpus_per_trial=3"):
        done = subprocess.run(
            [*command, "--set", wanted], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
            check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stdout + done.stderr
        assert re.search(r"a trial asks for [13] [CG]PUs but no machine here has more than [02]: ", done.stderr)


def test_a_session_counts_the_processors_it_may_use() -> None:
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import ray
from crystalframer.orchestration.cluster.session import ray_session
with ray_session(None):
    print(ray.cluster_resources()["CPU"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0"]


def test_a_session_of_ours_is_joined_not_started_twice() -> None:
    with ray_session(None, 1), ray_session(None, 1):
        assert ray.is_initialized()
    assert not ray.is_initialized()
