"""Where a sweep finds itself; what the nodes of a cluster say of its storage is tested on hosts, in tests/cluster."""

import argparse
from pathlib import Path

import pytest

from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.surroundings import (
    default_runs,
    find_address,
    require_visible,
    runs_folder,
    surroundings,
)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No surroundings that say anything."""
    for name in ("RAY_ADDRESS", "CRYSTALFRAMER_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_the_command_line_goes_before_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_address(None) == "10.0.0.1:6379"
    assert find_address("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert find_address(None) is None
    assert find_address("local") is None, "a Ray of our own, which listens on loopback alone"


def test_a_dashboards_address_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--address is 'http://localhost:8265', a dashboard's .*ray job submit"):
        find_address("http://localhost:8265")
    monkeypatch.setenv("RAY_ADDRESS", "http://localhost:8265")
    with pytest.raises(UserError, match="RAY_ADDRESS is"):
        find_address(None)


@pytest.mark.parametrize("address", ["nonsense", "head name:6379", ":6379", "10.0.0.1:", "10.0.0.1:port"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(UserError, match=f"--address is '{address}', expected HOST:PORT"):
        find_address(address)


def test_the_folder_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_runs() == Path("runs")
    monkeypatch.setenv("CRYSTALFRAMER_RUNS", "/shared/runs")
    assert default_runs() == Path("/shared/runs")
    assert runs_folder("file:///shared/other") == Path("/shared/other")
    for text in ("s3://bucket/runs", "gs://bucket", "file://host/runs"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a folder: run directories need a file system"):
            runs_folder(text)


def test_without_a_cluster_nothing_is_started(tmp_path: Path) -> None:
    with surroundings(None, tmp_path / "runs", None) as found:
        assert found == (None, None)
    assert not (tmp_path / "runs").exists()


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    marker = tmp_path / ".driver.lock"
    with pytest.raises(UserError, match=f"the folder of results {tmp_path} is not shared with node "):
        require_visible(marker)
    marker.touch()
    require_visible(marker)
