"""docs/clusters.md on three namespace hosts: up, a sweep, a host lost and back, stop and resume, the table, down."""

import base64
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import page
from tests.cluster.hosts import Host, Lab, lab, require_namespaces
from tests.cluster.launching import Launcher, fitted, listening_beyond_loopback, wait_for
from tests.cluster.sweeps import SHORTER, Metrics, epochs_written, recorded, sample_ablation, states, written

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

ASK = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Authorization": sys.argv[2]})).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print(0)
"""
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
    return Launcher(network, "clusters/onpremises.yaml", config)


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
    do = page.jobs()
    times = {"ray up": launcher.type_section(page.OWN_MACHINES, until="ray up clusters/onpremises.yaml")}
    times["workers joined"] = wait_for(lambda: nodes(network) == set(ADDRESSES), 180)
    for line in (page.PAGE.commands(page.OWN_MACHINES)[-1], *do["see the machines"]):
        wait_for(partial(shows_three, launcher, line), 60, partial(launcher.typed.__getitem__, line))
    sweep = sample_ablation()
    results = network.shared / "runs" / sweep.name
    started = time.monotonic()
    settings = " ".join(f"--set {setting}" for setting in SHORTER)
    options = f"{settings} --checkpoint-seconds 1"
    program = f"python ~/crystalframer/pipelines/ablate_frames.py {options}"
    said = launcher.exec(f"{program} --runs /tmp/ray/own", check=False)  # each host has its own
    assert "error: the folder of results /tmp/ray/own is not shared with node" in said
    assert "name one on storage that every node mounts, with --runs or CRYSTALFRAMER_RUNS" in said
    (start,) = do["start, detached"]
    launcher.type(start, options)
    assert "Job 'one' submitted successfully" in launcher.typed[start]

    wait_for(lambda: epochs_written(results) > 20, 600, lambda: launcher.exec("ray job logs one", check=False))
    busy = next(name for name in ("one", "two") if trains(network.hosts[name]))
    network.hosts[busy].close()  # the plug is pulled
    before = epochs_written(results)
    times["trials went on after a host was lost"] = wait_for(lambda: epochs_written(results) > before + 5, 400)
    network.add(busy, ADDRESSES[busy])  # somebody switches it on again
    times["the host was back in the cluster"] = wait_for(lambda: nodes(network) == set(ADDRESSES), 300)

    assert_pages_open_with_their_words(network, launcher, do)
    launcher.type(*do["stop"])
    wait_for(lambda: "stopped" in launcher.exec("ray job status one", check=False).lower(), 120)
    launcher.exec(f"ray job submit --no-wait --submission-id two -- {program}")  # "the same with another id"

    def ended() -> bool:
        said = launcher.exec("ray job status two", check=False).lower()
        assert "failed" not in said, launcher.exec("ray job logs two", check=False)
        return "succeeded" in said

    tables = network.shared / "analysis"
    wait_for(lambda: list(tables.rglob("learning_curves*.png")) != [], 900, lambda: str(states(results)))
    wait_for(ended, 300, lambda: str(states(results)))
    times["the sweep"] = time.monotonic() - started
    (tmp_path / "analysis").mkdir()
    launcher.type(*do["fetch the tables"], folder=tmp_path)
    assert list((tmp_path / "analysis" / "output").rglob("ablation_table.md"))
    assert written(results) == undisturbed_ablation
    database = network.folder.parent / "head" / "home" / "mlflow" / "mlflow.db"
    assert recorded(database, sweep.name, tmp_path / "copy.db") == undisturbed_ablation

    launcher.type(*do["watch its lines"])
    logs = launcher.typed[do["watch its lines"][0]]
    assert "its machine was lost; it will resume from its last checkpoint" in logs, logs[-5000:]
    assert listening_beyond_loopback(network.hosts["head"].run) & {8265} == set()
    launcher.type(*do["bring edited code there"])
    wait_for(lambda: nodes(network) == set(ADDRESSES), 180)
    times["ray down"] = launcher.type("ray down clusters/onpremises.yaml")
    wait_for(lambda: nodes(network) == set(), 60)
    assert secrets_found(network, launcher) == []
    of_the_page = {*page.PAGE.commands(page.OWN_MACHINES), *(line for lines in do.values() for line in lines)}
    assert of_the_page - set(page.NOT_TYPED) == set(launcher.typed) - {"ray down clusters/onpremises.yaml"}
    with capsys.disabled():
        print("\n" + "\n".join(f"{what}: {seconds:.0f} s" for what, seconds in times.items()))


def shows_three(launcher: Launcher, line: str) -> bool:
    """Whether a line shows the three hosts; Ray's monitor counts them seconds after they have joined."""
    launcher.type(line)
    return "3 local.cluster.node" in launcher.typed[line]


def assert_pages_open_with_their_words(network: Lab, launcher: Launcher, do: dict[str, list[str]]) -> None:
    """Look at MLflow and at Ray's dashboard from the user's machine, with what each asks for and without."""
    attach, ask_password = do["see it in MLflow"]
    launcher.type(ask_password)
    basic = base64.b64encode(f"anyone:{launcher.typed[ask_password].strip()}".encode()).decode()
    dashboard, ask_token = do["see Ray's dashboard"]
    launcher.type(ask_token)
    assert launcher.token in launcher.typed[ask_token]
    pages = (
        (attach, "http://localhost:5000/", f"Basic {basic}"),
        (dashboard, "http://localhost:8265/api/jobs/", f"Bearer {launcher.token}"),
    )
    for line, address, header in pages:
        with launcher.typing(line):
            wait_for(lambda: answer(network, address, header) == 200, 120, launcher.log.read_text)  # noqa: B023
            assert answer(network, address, "") in (401, 403)


def answer(network: Lab, address: str, header: str) -> int:
    """The status with which an address answers the user's machine, 0 where nobody listens yet."""
    return int(network.run(sys.executable, "-c", ASK, address, header).stdout)


def secrets_found(network: Lab, launcher: Launcher) -> list[str]:
    """The files that hold the cluster's token or MLflow's password, but for the token's own and what the user saw."""
    word = launcher.typed[page.jobs()["see it in MLflow"][1]].strip()
    assert len(launcher.token) > 20
    assert len(word) == 64
    found = []
    for path in network.folder.parent.rglob("*"):
        if path == launcher.log or path.name == "auth_token" or ".pyenv" in path.parts:
            continue
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if launcher.token.encode() in content or word.encode() in content:
                found.append(str(path))
    return found
