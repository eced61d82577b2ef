"""The benchmark's command line: no speed without parity, a CSV as documented, clear refusals."""

import csv
import re
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from torch import Tensor

from benchmarks.rows import COLUMNS
from benchmarks.stages import STAGES
from crystalframer.kernels import cpu
from pipelines.benchmark_speed import main

TINY = ["--quick", "--atoms", "8", "--cutoff", "4"]


def scaled_output(out: Tensor) -> Tensor:
    return 1.001 * out


def scaled_gradients(out: Tensor) -> Tensor:
    return out + 0.001 * (out - out.detach())


def not_a_number(out: Tensor) -> Tensor:
    return out * torch.nan


@pytest.mark.parametrize(
    ("fault", "said"),
    [(scaled_output, "out is off by 1.0e-03"), (scaled_gradients, "dq is off by 1.0e-03"), (not_a_number, "nan")],
)
def test_a_broken_kernel_has_no_speed(
    fault: Any, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sound, results = cpu.attend, tmp_path / "results.csv"
    monkeypatch.setattr(cpu, "attend", lambda *arguments: fault(sound(*arguments)))
    code = main([*TINY, "--sizes", "8", "--output", str(results)])
    printed = capsys.readouterr()
    assert code == 1
    assert printed.out == ""
    assert re.fullmatch(r"parity gate is red, no speed is printed: cpu, max/default, 8 atoms: .*\n", printed.err)
    assert said in printed.err
    assert not results.exists()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The rows of a quick benchmark on real crystals."""
    path = tmp_path_factory.mktemp("benchmark") / "new" / "results.csv"
    threads = torch.get_num_threads(), numba.get_num_threads()
    assert main([*TINY, "--sizes", "real", "--output", str(path)]) == 0
    assert (torch.get_num_threads(), numba.get_num_threads()) == threads
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_columns_and_quantities_are_the_documented_ones(quick: list[dict[str, str]], root: Path) -> None:
    text = (root / "benchmarks" / "README.md").read_text(encoding="utf-8")
    tables = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {name for cell in tables for name in re.findall(r"`(\w+)`", cell)}
    quantities = {row["quantity"] for row in quick}
    assert set(quick[0]) == set(COLUMNS)
    assert documented == set(COLUMNS) | quantities


def test_every_quantity_of_every_kernel_is_there_once(quick: list[dict[str, str]]) -> None:
    shared = {("", "stage_neighbours"), ("", "stage_collate"), ("cpu", "parity")}
    own = {"forward", "step", "epoch", "memory_peak", "memory_step", *(f"stage_{stage}" for stage in STAGES)}
    expected = shared | {(kernel, quantity) for kernel in ("reference", "cpu") for quantity in own}
    assert sorted((row["kernel"], row["quantity"]) for row in quick) == sorted(expected)


def test_the_numbers_make_sense(quick: list[dict[str, str]]) -> None:
    found = {(row["kernel"], row["quantity"]): row for row in quick}
    for row in quick:
        assert float(row["min"]) <= float(row["median"]) <= float(row["max"])
        assert row["torch"] == torch.__version__
        assert float(row["atoms_per_crystal"]) > 1
    for kernel in ("reference", "cpu"):
        step, forward = found[kernel, "step"], found[kernel, "forward"]
        assert float(step["median"]) > 0
        assert float(forward["median"]) > 0
        assert float(step["cpu_median"]) > 0
        assert float(found[kernel, "memory_peak"]["median"]) > 50
        epoch, collate = found[kernel, "epoch"], found["", "stage_collate"]
        crystals = int(re.findall(r"to (\d+) training crystals", epoch["note"])[0])
        per_crystal = float(step["median"]) + float(collate["median"])
        assert float(epoch["median"]) == pytest.approx(crystals * per_crystal / 1e3, rel=0.01)
    assert float(found["reference", "step"]["ratio_to_reference"]) == 1
    assert float(found["cpu", "step"]["ratio_to_reference"]) > 0
    assert float(found["cpu", "parity"]["median"]) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "maximum"], "--frames: unknown name 'maximum' (did you mean 'max'?)"),
        (["--kernels", "cpuu"], "--kernels: unknown name 'cpuu' (did you mean 'cpu'?)"),
        (["--kernels", "triton"], "triton has no speed worth measuring on 'cpu'"),
        (["--sizes", "8", "rael"], "--sizes: got 'rael', expected numbers of atoms from 1 on, or 'real'"),
        (["--threads", "0"], "--threads: got 0, expected at least 1"),
        (["--threads", "100000"], "--threads: got 100000, expected at most"),
        (["--device", "tpu"], "--device: got 'tpu', expected cpu, cuda or cuda:N"),
        (["--cutoff", "-1"], "'model.cutoff': got -1.0, expected a positive number"),
        (["--dataset", "smaple"], "'smaple'"),
        (["--output", "."], "--output: cannot write ."),
    ],
)
def test_a_mistake_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--quick", *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []
