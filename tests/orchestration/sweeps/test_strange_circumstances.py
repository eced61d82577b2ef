"""A sweep where much is unlike at home ends in its table with exit code 0."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fixtures.unprivileged import unprivileged
from tests.orchestration.conftest import PIPELINE, PROSE, ROOT, TINY


@pytest.mark.slow
def test_a_sweep_behind_a_proxy_on_one_core_in_a_closed_home_on_a_poor_terminal_that_is_left(tmp_path: Path) -> None:
    here, home = tmp_path / "mit Leerzeichen und Ümläuten", tmp_path / "home"
    here.mkdir()
    home.mkdir(mode=0o555)
    grid = {"model.frame": ["none", "max"]}
    (here / "tiny.yaml").write_text(yaml.safe_dump({**PROSE, "base": TINY, "grid": grid}))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "ascii",
        "COLUMNS": "40",
        "HOME": str(home),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "MLFLOW_TRACKING_URI": "",
        "RAY_ADDRESS": "",
    }
    for name in ("no_proxy", "NO_PROXY"):
        environment.pop(name, None)
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    trainer = ["--trainer", "tests.orchestration.stub_training:StubTrainer"]
    command = [*unprivileged(), *one_core, sys.executable, str(PIPELINE), "tiny.yaml", *trainer]
    with subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as sweep:
        assert sweep.stdout is not None
        first = [sweep.stdout.readline() for _ in range(2)]
        sweep.stdout.close()  # as `| head -2` does
        code = sweep.wait(500)
    assert code == 0, first
    assert first[0] == "tiny: 2 trials, 0 of them done\n"
    table = (here / "analysis" / "output" / "tiny" / "ablation_table.md").read_text()
    assert "| max | " in table
    assert not list(home.iterdir())
