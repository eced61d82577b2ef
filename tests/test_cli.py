"""The console script as a person runs it."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from crystalframer import __version__, cli
from crystalframer.commands.data import describe
from crystalframer.data.dataset import CrystalDataset, Task
from crystalframer.geometry.crystal import Crystal


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"crystalframer {__version__}\n"


def test_data_lists_what_is_there_and_how_to_get_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path))
    assert cli.main(["data"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("sample: 6,175 crystals of ")
    assert re.search(r"^  formation_energy +eV/atom +3,104 train, 395 validation, 439 test$", output, re.MULTILINE)
    for name in ("jarvis", "mp", "oqmd"):
        assert re.search(rf"^{name}: .*not prepared.*crystalframer prepare {name}", output, re.MULTILINE)


def test_a_data_set_is_counted_by_split_without_absent_targets() -> None:
    crystals = [Crystal(4 * np.eye(3), np.zeros((1, 3)), np.array([29]), f"c{n}") for n in range(5)]
    targets, split = np.array([1.0, np.nan, 2.0, 3.0, 4.0]), np.array([0, 0, 0, 1, -1], dtype=np.int8)
    dataset = CrystalDataset.from_crystals("five", crystals, [Task("gap", "eV", targets, split)])
    size, gap = describe(dataset).splitlines()
    assert size == "5 crystals of 1 to 1 atoms, 1.0 on average"
    assert gap.split() == ["gap", "eV", "2", "train,", "1", "validation,", "0", "test"]


def test_ui_without_results_says_what_to_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["ui", "--runs", str(tmp_path)]) == 2
    assert "run `crystalframer sweep` first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["dance"])
    assert stopped.value.code == 2
    assert "invalid choice: 'dance'" in capsys.readouterr().err


def heed_interrupts() -> None:
    """Undo what a shell does to background jobs: they ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ui_serves_the_runs_on_loopback_until_interrupted(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").create_experiment("found_me")
    command = [sys.executable, "-m", "crystalframer", "ui", "--runs", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout)
            link = re.compile(r"(http://127\.0\.0\.1:\d+)/\?token=(\w+)#/experiments")
            address, word = next(match.groups() for line in lines if (match := link.search(line)))
            page = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=found_me"
            signed_in = urllib.request.Request(page, headers={"Authorization": f"Bearer {word}"})
            with urllib.request.urlopen(signed_in) as answer:
                assert b"found_me" in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)
