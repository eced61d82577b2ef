"""cluster.yaml on an AWS of our own: up, workers from zero, one taken away and replaced, the table, idle, down.

moto's server answers the cloud's API inside the lab, and each machine it is asked for becomes a namespace host with
the address that moto gave it. The lab has no way out, so no request can reach the real cloud.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import page
from tests.cluster.hosts import Lab, lab, require_namespaces
from tests.cluster.launching import Launcher, fitted, wait_for
from tests.cluster.sweeps import SHORTER, Metrics, epochs_written, recorded, sample_ablation, states, written

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

PORT = 5566
ADDRESS = "172.31.0.1"  # moto's default network is 172.31.0.0/16
CLOUD = {
    "AWS_ENDPOINT_URL": f"http://{ADDRESS}:{PORT}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    "RAY_UP_enable_autoscaler_v2": "1",
}


class Cloud:
    """moto's server, and the hosts that its instances are."""

    def __init__(self, network: Lab) -> None:
        """Start it."""
        self._network = network
        self.instances: dict[str, dict[str, Any]] = {}
        script = Path(__file__).with_name("moto_cloud.py")
        arguments = [ADDRESS, str(PORT), CLOUD["AWS_DEFAULT_REGION"], str(network.keys / "user_key.pub")]
        command = network.command(sys.executable, str(script), *arguments, env=CLOUD)
        with (network.folder / "moto.log").open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()) == {"ready": True}
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            instance = json.loads(line)
            name = instance["InstanceId"]
            self.instances[name] = {**self.instances.get(name, {}), **instance, "seen": time.monotonic()}
            if instance["state"] in ("pending", "running") and name not in self._network.hosts:
                self._network.add(name, instance["PrivateIpAddress"])
            elif instance["state"] in ("shutting-down", "terminated") and name in self._network.hosts:
                self._network.hosts.pop(name).close()

    def running(self, *, spot: bool) -> list[str]:
        """Return the instances that are there, the workers (spot) or the head."""
        return [n for n, i in list(self.instances.items()) if i["state"] == "running" and i["spot"] == spot]

    def take_away(self, name: str) -> None:
        """Do what a spot market does."""
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(timeout=20)
        self._follower.join(timeout=20)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """An empty network with the addresses of moto's."""
    require_namespaces()
    pytest.importorskip("moto.server", reason="needs the extra `cluster-test`")
    with lab(tmp_path_factory.mktemp("lab"), address=ADDRESS, prefix=16) as made:
        yield made


@pytest.fixture
def cloud(network: Lab) -> Iterator[Cloud]:
    """Our AWS."""
    made = Cloud(network)
    yield made
    made.close()


@pytest.fixture
def launcher(network: Lab, cloud: Cloud) -> Launcher:
    """The user with cluster.yaml, edited: two workers at most, no container, the lab's keys."""
    config = fitted("cluster.yaml", network)
    docker = config.pop("docker")
    options = [*docker["run_options"], *docker["head_run_options"]]
    variables = [option.removeprefix("-e ") for option in options if option.startswith("-e ")]
    variables += [f"{name}={value}" for name, value in CLOUD.items()]
    variables += ["PATH=~/crystalframer-environment/bin:$PATH", "RAY_worker_niceness=0"]
    exports = "; ".join(f"echo export {variable!r} >> ~/.bashrc" for variable in variables)
    config["initialization_commands"] = [f"ln -sfn {sys.prefix} ~/crystalframer-environment", exports.replace("'", '"')]
    config["file_mounts"] = {
        target.replace("/home/ray", "~"): source for target, source in config["file_mounts"].items()
    }
    config["provider"]["use_internal_ips"] = True
    config["max_workers"] = config["available_node_types"]["gpu_worker"]["max_workers"] = 2
    config["idle_timeout_minutes"] = 1
    for node_type in config["available_node_types"].values():
        node_type["node_config"]["KeyName"] = "lab"
        del node_type["node_config"]["ImageId"]  # moto knows no images of AWS's
    (network.shared / "mlartifacts").mkdir()
    return Launcher(network, "cluster.yaml", config, CLOUD)


def test_a_sweep_on_spot_workers(
    network: Lab,
    cloud: Cloud,
    launcher: Launcher,
    undisturbed_ablation: Metrics,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = {"ray up": launcher.type_section(page.CLOUD, until="ray up cluster.yaml")}
    assert len(cloud.running(spot=False)) == 1
    assert cloud.running(spot=True) == []
    (head,) = cloud.running(spot=False)
    sweep = sample_ablation()
    results = network.shared / "runs" / sweep.name
    started = time.monotonic()
    settings = " ".join(f"--set {setting}" for setting in SHORTER)
    options = f"{settings} --checkpoint-seconds 1 --set resources.gpus_per_trial=0.5 --device cpu"
    launcher.type(page.jobs()["start, detached"][0], more=options)

    def log() -> str:
        monitor = network.folder.parent / head / "ray" / "session_latest" / "logs" / "monitor.log"
        autoscaler = "\n".join(monitor.resolve().read_text().splitlines()[-80:]) if monitor.exists() else ""
        return launcher.exec("ray job logs one | tail -n 20; ray status", check=False) + autoscaler

    times["two spot workers asked for"] = wait_for(lambda: len(cloud.running(spot=True)) == 2, 240, log)
    times["first epochs after that"] = wait_for(lambda: results.exists() and epochs_written(results) > 20, 240, log)
    wait_for(lambda: trials_on(network, cloud.running(spot=True)[0]) == 2, 240, log)  # half a GPU each
    victim = cloud.running(spot=True)[0]
    cloud.take_away(victim)
    wait_for(lambda: victim not in network.hosts, 30, log)
    times["a replacement asked for"] = wait_for(lambda: len(cloud.running(spot=True)) == 2, 240, log)

    def ended() -> bool:
        said = launcher.exec("ray job status one", check=False).lower()
        assert "failed" not in said, log()
        return "succeeded" in said

    tables = network.shared / "analysis"
    wait_for(lambda: list(tables.rglob("learning_curves*.png")) != [], 500, lambda: str(states(results)))
    wait_for(ended, 120, lambda: str(states(results)))
    times["the sweep"] = time.monotonic() - started
    assert list((network.shared / "analysis").rglob("ablation_table.md"))
    assert written(results) == undisturbed_ablation
    database = network.folder.parent / head / "home" / "mlflow" / "mlflow.db"
    assert recorded(database, sweep.name, tmp_path / "copy.db") == undisturbed_ablation
    times["idle workers gone"] = wait_for(lambda: cloud.running(spot=True) == [], 300, log)
    times["ray down"] = launcher.type("ray down cluster.yaml")
    wait_for(lambda: cloud.running(spot=False) == [], 60)
    assert {i["state"] for i in cloud.instances.values()} == {"terminated"}
    assert {i["InstanceType"] for i in cloud.instances.values()} == {"m6i.xlarge", "g6.2xlarge"}
    with capsys.disabled():
        print("\n" + "\n".join(f"{what}: {seconds:.0f} s" for what, seconds in times.items()))


def trials_on(network: Lab, name: str) -> int:
    """How many trials run on a host."""
    host = network.hosts.get(name)
    lines = [] if host is None else host.processes().values()
    return sum(line.startswith("ray::ResourceTrainable") for line in lines)
