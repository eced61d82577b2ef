"""Commands killed at random moments: their output is the old or the new one, whole, and they work again."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crystalframer.prediction.loading import read_model
from crystalframer.training.trained_model import TrainedModel, write_model
from tests.prediction.conftest import cif_folder, crystals, make_model, trained

__all__ = ["cif_folder", "crystals", "make_model", "trained"]
pytestmark = pytest.mark.slow
KILLS = 4
Run = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def run(root: Path) -> Iterator[Run]:
    """Return a function that runs a command, and kills it after some seconds."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.nursery"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None

        def run(arguments: list[str], seconds: float | None = None) -> dict[str, float]:
            assert nursery.stdin is not None
            assert nursery.stdout is not None
            print(json.dumps({"arguments": arguments, "seconds": seconds}), file=nursery.stdin, flush=True)
            answer: dict[str, float] = json.loads(nursery.stdout.readline())
            return answer

        yield run
        nursery.stdin.close()


@pytest.fixture
def model(trained: TrainedModel, tmp_path: Path) -> Path:
    """A file of the small model, whose kernel need not be compiled."""
    trial = replace(trained.trial, train=replace(trained.trial.train, kernel="reference"))
    write_model(tmp_path / "model.pt", replace(trained, trial=trial))
    return tmp_path / "model.pt"


def files(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder under a final name."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".tmp") and ".tmp/" not in name}


def killed(run: Run, command: list[str], seconds: float) -> Iterator[None]:
    """Kill a command at random moments of the time that it takes; yield after each."""
    moments = random.Random(0)
    codes = []
    for _ in range(KILLS):
        codes.append(run(command, moments.uniform(0.1, 1.0) * seconds)["status"])
        yield
    assert -9 in codes, "every one was over before"


def test_predict(run: Run, model: Path, cif_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "out" / "table.csv"
    table.parent.mkdir()
    command = ["predict", str(model), str(cif_folder), "--output", str(table)]
    took = run(command)
    assert took["status"] == 0
    new = table.read_bytes()
    for before in (b"", b"old"):
        table.write_bytes(before)
        for _ in killed(run, command, took["seconds"]):
            assert files(table.parent).keys() == {"table.csv"}
            assert table.read_bytes() in (before, new)
            table.write_bytes(before)
    assert run(command)["status"] == 0
    assert table.read_bytes() == new


def test_register_in_a_folder(run: Run, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "served"
    command = ["register", str(model), "--folder", str(folder)]
    took = run(command)
    assert took["status"] == 0
    new = files(folder).keys()
    shutil.rmtree(folder)
    for _ in killed(run, command, took["seconds"]):
        assert not folder.exists() or files(folder).keys() == new
        shutil.rmtree(folder, ignore_errors=True)
    assert run(command)["status"] == 0
    assert files(folder).keys() == new


def test_convert(run: Run, shared: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted.pt"
    command = ["convert", str(shared / "golden" / "official_style_none.ckpt"), "--output", str(output)]
    took = run(command)
    assert took["status"] == 0
    output.unlink()
    for _ in killed(run, command, took["seconds"]):
        if output.exists():
            read_model(output)
            output.unlink()
    assert run(command)["status"] == 0
    read_model(output)
