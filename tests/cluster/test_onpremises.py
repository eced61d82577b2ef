"""clusters/onpremises.yaml on three namespace hosts: up, a sweep, a host lost and back, the table, down."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Lab, lab, require_namespaces
from tests.cluster.launching import QUIET, Launcher, fitted, listening_beyond_loopback, wait_for
from tests.cluster.sweeps import SHORTER, Metrics, epochs_written, recorded, sample_ablation, states, written

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

ADDRESSES = {"head": "10.77.0.10", "one": "10.77.0.11", "two": "10.77.0.12"}


@pytest.fixture
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three hosts, switched on."""
    require_namespaces()
    with lab(tmp_path_factory.mktemp("lab")) as made:
        for name, address in ADDRESSES.items():
            made.add(name, address)
        yield made


@pytest.fixture
def launcher(network: Lab) -> Launcher:
    """The user with clusters/onpremises.yaml, edited in its three places."""
    config = fitted("clusters/onpremises.yaml", network)
    config["provider"] |= {"head_ip": ADDRESSES["head"], "worker_ips": [ADDRESSES["one"], ADDRESSES["two"]]}
    return Launcher(network, config)


def nodes(network: Lab) -> set[str]:
    """The hosts on which Ray's own process runs."""
    return {
        name
        for name, host in network.hosts.items()
        if any("/raylet/raylet " in line for line in host.processes().values())
    }


def trains(host: Host) -> bool:
    """Whether a trial runs on a host."""
    return any(line.startswith("ray::ResourceTrainable") for line in host.processes().values())


def test_a_sweep_on_three_hosts(
    network: Lab,
    launcher: Launcher,
    undisturbed_ablation: Metrics,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = {"ray up": launcher.up()}
    times["workers joined"] = wait_for(lambda: nodes(network) == set(ADDRESSES), 180)
    sweep = sample_ablation()
    results = network.shared / "runs" / sweep.name
    started = time.monotonic()
    settings = " ".join(f"--set {setting}" for setting in SHORTER)
    program = f"python ~/crystalframer/pipelines/ablate_frames.py {settings} --checkpoint-seconds 1"
    said = launcher.exec(f"{program} --runs /tmp/ray/own", check=False)  # each host has its own
    assert "error: the folder of results /tmp/ray/own is not shared with node" in said
    assert "name one on storage that every node mounts, with --runs or CRYSTALFRAMER_RUNS" in said
    said = launcher.exec(f"ray job submit --no-wait --submission-id one -- {program}")
    assert "Job 'one' submitted successfully" in said

    wait_for(lambda: epochs_written(results) > 20, 180, lambda: launcher.exec("ray job logs one", check=False))
    busy = next(name for name in ("one", "two") if trains(network.hosts[name]))
    network.hosts[busy].close()  # the plug is pulled
    before = epochs_written(results)
    times["trials went on after a host was lost"] = wait_for(lambda: epochs_written(results) > before + 5, 120)
    network.add(busy, ADDRESSES[busy])  # somebody switches it on again
    times["the host was back in the cluster"] = wait_for(lambda: nodes(network) == set(ADDRESSES), 300)

    def ended() -> bool:
        said = launcher.exec("ray job status one", check=False).lower()
        assert "failed" not in said, launcher.exec("ray job logs one", check=False)
        return "succeeded" in said

    tables = network.shared / "analysis"
    wait_for(lambda: list(tables.rglob("learning_curves*.png")) != [], 400, lambda: str(states(results)))
    wait_for(ended, 120, lambda: str(states(results)))
    times["the sweep"] = time.monotonic() - started
    assert list((network.shared / "analysis").rglob("ablation_table.md"))
    assert written(results) == undisturbed_ablation
    database = network.folder.parent / "head" / "home" / "mlflow" / "mlflow.db"
    assert recorded(database, sweep.name, tmp_path / "copy.db") == undisturbed_ablation

    logs = launcher.exec("ray job logs one")
    assert "its machine was lost; it will resume from its last checkpoint" in logs, logs[-5000:]
    assert listening_beyond_loopback(network.hosts["head"].run) & {8265} == set()
    times["ray down"] = launcher.down()
    wait_for(lambda: nodes(network) == set(), 60)
    assert secrets_found(network, launcher) == []
    with capsys.disabled():
        print("\n" + "\n".join(f"{what}: {seconds:.0f} s" for what, seconds in times.items()))


def secrets_found(network: Lab, launcher: Launcher) -> list[str]:
    """The files that hold the cluster's token or MLflow's password, but for the token's own."""
    word = network.run(sys.executable, "-m", "crystalframer.orchestration.tracking.gate", env=QUIET).stdout.strip()
    assert len(launcher.token) > 20
    assert len(word) == 64
    found = []
    for path in network.folder.parent.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != "auth_token" and ".pyenv" not in path.parts:
            content = path.read_bytes()
            if launcher.token.encode() in content or word.encode() in content:
                found.append(str(path))
    return found
