"""Sweeps that cannot start, or not go on, through a real Ray: one sentence, or a wait that is said."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.session import GROWING, require_listener
from tests.fixtures.disks import fill, mounted
from tests.orchestration.conftest import PIPELINE, ROOT, WriteSweep
from tests.orchestration.failure_table import SWEEPS, Declared
from tests.orchestration.stub_training import EPOCH_SECONDS

pytestmark = pytest.mark.slow


def test_a_cluster_that_is_gone_is_said_at_once(write_sweep: WriteSweep, tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(PIPELINE), str(write_sweep()), "--runs", str(tmp_path / "runs")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == SWEEPS["gone"].code
    assert done.stderr == (f"error: {SWEEPS['gone'].says}'127.0.0.1:9'; start one, or unset it for a Ray of its own\n")
    assert time.monotonic() - started < 60
    with pytest.raises(UserError, match=re.escape("at --address '127.0.0.1:9'")):
        require_listener("127.0.0.1:9")


def test_a_cluster_that_cannot_be_joined_is_said(write_sweep: WriteSweep, tmp_path: Path) -> None:
    client = {**os.environ, "RAY_ADDRESS": "ray://127.0.0.1:10001"}
    refused(tmp_path, write_sweep(), client, "max_failures=1", SWEEPS["client"])
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_VERSION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdin is not None
        assert head.stdout is not None
        address = head.stdout.readline().strip()
        environment = {**os.environ, "RAY_ADDRESS": address}
        said = refused(tmp_path, write_sweep(), environment, "max_failures=1", SWEEPS["other version"])
        head.stdin.close()
    version = ".".join(map(str, sys.version_info[:3]))
    assert f"here is Ray {ray.__version__} on Python {version}: run the command in the cluster's own" in said


OTHER_VERSION = """
import sys, ray
ray.__version__ = "2.9.3"  # what it tells those who want to join
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def test_a_user_who_may_start_no_more_processes_is_told(write_sweep: WriteSweep, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None or shutil.which("prlimit") is None:
        pytest.skip("needs to become another user, who runs nothing else")
    tmp_path.chmod(0o777)
    reading = "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"  # of what root alone may read
    other = ["prlimit", "--nproc=60", "setpriv", "--reuid=54329", "--regid=54329", "--clear-groups", *reading, "--"]
    declared, started = SWEEPS["no processes"], time.monotonic()
    refused(tmp_path, write_sweep(), dict(os.environ), "max_failures=1", declared, as_user=other)
    assert time.monotonic() - started < 100
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_gpu_where_there_is_none_is_refused(write_sweep: WriteSweep, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    refused(tmp_path, write_sweep(), environment, "resources.gpus_per_trial=1", SWEEPS["no GPU"])


def refused(
    tmp_path: Path,
    sweep: Path,
    environment: dict[str, str],
    wanted: str,
    declared: Declared,
    as_user: Sequence[str] = (),
) -> str:
    environment = {**environment, "HOME": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    done = subprocess.run(
        [*as_user, sys.executable, str(PIPELINE), str(sweep), "--runs", str(tmp_path / "runs"), "--set", wanted],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == declared.code, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert declared.says in done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_what_no_node_has_is_refused_on_a_fixed_cluster_and_waited_for_on_one_that_grows(
    two_nodes: Cluster, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    two_nodes.add_node(num_cpus=2)
    sweep, environment = write_sweep(), {**os.environ, "RAY_ADDRESS": two_nodes.address}
    refused(tmp_path, sweep, environment, "resources.cpus_per_trial=3", SWEEPS["too few CPUs"])

    (tmp_path / GROWING).touch()
    environment |= {"HOME": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    command = [sys.executable, str(PIPELINE), str(sweep), "--runs", str(tmp_path / "runs")]
    waiting = SWEEPS["waiting"]
    with subprocess.Popen(
        [*command, "--set", "resources.gpus_per_trial=1"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        try:
            said = next((line for line in driver.stdout if line.startswith(waiting.says)), "")
            assert said
            status = subprocess.run(
                [sys.executable, "-m", "crystalframer", "status", sweep.stem, "--runs", str(tmp_path / "runs")],
                cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert "waiting for 1 GPU\n" in status.stdout
            driver.send_signal(signal.SIGINT)
            rest = driver.stdout.read()
            assert driver.wait(100) == waiting.code, rest
            assert waiting.says not in rest, "said once"
            assert rest.splitlines()[-1] == "Stopped by SIGINT; the same command resumes it."
        finally:
            driver.kill()


def test_a_driver_whose_own_disk_is_full_says_so(
    write_sweep: WriteSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EPOCH_SECONDS, "0.5")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runs, declared = tmp_path / "runs", SWEEPS["driver's disk"]
    runs.mkdir()
    sweep = write_sweep(grid={"model.frame": ["none"]})
    command = [sys.executable, str(PIPELINE), str(sweep), "--runs", str(runs)]
    command += ["--trainer", "tests.orchestration.stub_training:StubTrainer"]
    with mounted(runs, "4m") as there:
        if not there:
            pytest.skip("needs to mount a file system, which is not permitted here")
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as driver:
            try:
                until = time.monotonic() + 200
                while not list(runs.glob("*/*/metrics.jsonl")) and driver.poll() is None and time.monotonic() < until:
                    time.sleep(0.1)
                fill(runs / "ballast")
                out, error = driver.communicate(timeout=100)
            finally:
                driver.kill()
        assert driver.returncode == declared.code, out + error
        assert error.splitlines()[-1] == f"error: {runs / sweep.stem} {declared.says}"
        assert "Traceback" not in error
        (runs / "ballast").unlink()
        again = subprocess.run([*command, "--dry-run"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "1 trial" in again.stdout
