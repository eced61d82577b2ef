"""Every kind of failure, through a real Ray: what the user reads, what is done about it, and how the sweep ends."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError

from crystalframer.orchestration.cluster.failures import Failure, standard_policies
from crystalframer.orchestration.cluster.session import ray_session
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.orchestration.tracking.server import database_uri
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import Trial, TrialJob
from tests.fixtures.disks import mounted
from tests.orchestration.conftest import PIPELINE, ROOT, TINY
from tests.orchestration.failing_training import KINDS, SMALL_DISK
from tests.orchestration.failure_table import NODES, PAGE, TRIALS, Declared, table, written

pytestmark = pytest.mark.slow

CANNOT_WRITE = ("killed", "superseded", "no file handles")
SMALL = "small disk"


def test_the_page_says_what_is_tested() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert table() in page
    assert written(page) == page, "run: python -m tests.orchestration.failure_table"
    assert set(TRIALS) | {"none"} == set(KINDS)
    policies = {failure.policy for failure in (*TRIALS.values(), *NODES.values())} - {""}
    assert policies == {policy.name for policy in standard_policies(3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder, and a sweep's file with a trial for each kind of failure that can be had here, one on a small disk."""
    import yaml

    folder = tmp_path_factory.mktemp("failures")
    prose = {"question": "What fails how?", "expectation": "As documented.", "command": "python", "duration": "1 min"}
    train = {**TINY["train"], "epochs": 2, "average_epochs": 1}
    content = {**prose, "base": {**TINY, "train": train}, "max_failures": 1}
    path = folder / "failing.yaml"
    path.write_text(yaml.safe_dump({**content, "grid": {"train.seed": list(range(len(KINDS)))}}))
    trial = load_sweep(path).trials()[KINDS.index(SMALL)]
    disk = folder / "runs" / "failing" / trial.name
    disk.mkdir(parents=True)
    (folder / SMALL_DISK).symlink_to(disk)
    with mounted(disk, "256k") as there:
        if not there:
            seeds = [seed for seed, kind in enumerate(KINDS) if kind != SMALL]
            path.write_text(yaml.safe_dump({**content, "grid": {"train.seed": seeds}}))
        yield folder


@pytest.fixture(scope="module")
def sweep(folder: Path) -> tuple[int, str, Path]:
    """The sweep, each trial tried again once: exit code, output and folder."""
    path = folder / "failing.yaml"
    environment = {**os.environ, "FAILED": str(folder), "PYTHONPATH": str(ROOT)}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    command = [sys.executable, str(PIPELINE), str(path), "--runs", str(folder / "runs"), "--output", str(folder)]
    command += ["--trainer", "tests.orchestration.failing_training:FailingTrainer"]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, folder / "runs" / "failing"


def kinds(folder: Path) -> list[str]:
    """Return the kinds that the sweep has."""
    return [kind for seed, kind in enumerate(KINDS) if any(folder.glob(f"*-seed{seed}-*/config.json"))]


def of_kind(folder: Path, kind: str) -> dict[str, Any]:
    """Return what the report says of the trial that fails in this way."""
    trials: list[dict[str, Any]] = json.loads((folder / "report.json").read_text())["trials"]
    return next(trial for trial in trials if f"seed{KINDS.index(kind)}-" in f"{trial['name']}-")


@pytest.mark.parametrize("kind", [kind for kind, failure in TRIALS.items() if failure.policy])
def test_the_driver_hears_the_reason_and_does_what_is_documented(sweep: tuple[int, str, Path], kind: str) -> None:
    _, output, folder = sweep
    if kind not in kinds(folder):
        pytest.skip("needs to mount a file system, which is not permitted here")
    declared = TRIALS[kind]
    trial = of_kind(folder, kind)
    said = [line for line in output.splitlines() if trial["name"] in line and declared.says in line]
    assert said, output
    assert (declared.done in said[0]) if declared.done else not any("it will" in line for line in said)
    if declared.passes:
        assert trial["fate"] == "done"
        return
    assert trial["fate"] == "failed"
    assert declared.says in trial["reason"]
    tracebacks = (folder / trial["name"] / "error.txt").exists()
    assert tracebacks == (kind not in CANNOT_WRITE), "they may not, or cannot, write"


def test_the_policies_act_as_often_as_they_may(sweep: tuple[int, str, Path]) -> None:
    code, output, folder = sweep
    here = [TRIALS[kind] for kind in kinds(folder) if kind in TRIALS]
    assert code == 1
    assert f"{sum(not failure.passes for failure in here)} of {len(here) + 1} trials failed" in output
    corrections = json.loads((folder / "report.json").read_text())["corrections"]
    assert corrections == Counter(failure.policy for failure in here if failure.done and failure.policy)
    assert of_kind(folder, "none")["fate"] == "done"


def test_a_tracker_that_is_lost_is_started_again_and_fails_no_trial(sweep: tuple[int, str, Path]) -> None:
    folder = sweep[2]
    trial = of_kind(folder, "lost tracker")
    assert (trial["fate"] == "done") == TRIALS["lost tracker"].passes
    assert "Uvicorn running" in (log := (folder.parent / "mlflow-server.log").read_text())
    assert log.count("Started server process") > 1, log
    runs = MlflowExperiment(database_uri(folder.parent), folder.name).runs()
    assert runs[trial["name"]].status == "FINISHED"


def test_a_relative_path_means_in_a_worker_what_it_means_to_the_driver(sweep: tuple[int, str, Path]) -> None:
    folder = sweep[2].parents[1]
    assert (folder / "works in").read_text() == str(folder), "the working directory is the driver's"


def test_a_lost_node_is_told_apart_from_a_killed_worker(two_nodes: Cluster) -> None:
    @ray.remote(num_cpus=1)
    class Worker:
        def pid(self) -> int:
            return os.getpid()

        def wait(self) -> None:
            time.sleep(600)

    node = two_nodes.add_node(num_cpus=1)
    for failure in (NODES["worker"], NODES["node"]):
        worker = Worker.remote()  # type: ignore[attr-defined]
        pid = ray.get(worker.pid.remote())
        waiting = worker.wait.remote()
        if failure is NODES["node"]:
            two_nodes.remove_node(node, allow_graceful=False)
        else:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(RayActorError) as ended:
            ray.get(waiting, timeout=120)
        require_as_declared(Failure.of_lost_worker(str(ended.value)), failure)


def require_as_declared(found: Failure, declared: Declared) -> None:
    """Check what the driver makes of Ray's word."""
    policy = next(policy for policy in standard_policies(3) if policy.detects(found))
    job = TrialJob(Trial("a-trial", build_trial({})), RunDirectory(Path()), cpus=1)
    correction = policy.correct(found, job, 0)
    assert (found.reason, policy.name) == (declared.says, declared.policy)
    assert correction is not None
    assert correction.said == declared.done


def test_a_worker_that_the_memory_monitor_kills_is_told_apart() -> None:
    program = """
import time, ray
from crystalframer.orchestration.cluster.failures import Failure
from crystalframer.orchestration.cluster.session import ray_session
with ray_session(None, 1):
    @ray.remote
    class Worker:
        def wait(self):
            time.sleep(600)
    try:
        ray.get(Worker.remote().wait.remote(), timeout=500)
    except ray.exceptions.RayError as error:
        print(Failure.of_lost_worker(str(error)).reason)
"""
    all_is_too_much = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | all_is_too_much, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    require_as_declared(Failure(done.stdout.strip(), worker_died=True), NODES["memory"])


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


def test_trials_keep_the_priority_of_the_command() -> None:
    program = """
import os, ray
from crystalframer.orchestration.cluster.session import ray_session
os.nice(3)
with ray_session(None, 1):
    print(ray.get(ray.remote(lambda: os.nice(0)).remote()) - os.nice(0))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


def test_a_session_of_ours_is_joined_not_started_twice() -> None:
    with ray_session(None, 1), ray_session(None, 1):
        assert ray.is_initialized()
    assert not ray.is_initialized()
