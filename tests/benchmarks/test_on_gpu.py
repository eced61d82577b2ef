"""The GPU list runs from end to end on a CPU, with the packages a bare machine has, and no stage stops another."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gpu_report import report
from benchmarks.on_gpu import SECONDS, STAGES, Plan, Record, Stage, main, run_stage

ABSENT = (
    "ray",
    "mlflow",
    "optuna",
    "matplotlib",
    "pymatgen",
    "ase",
    "gemmi",
    "spglib",
    "pandas",
    "plotly",
    "sklearn",
    "requests",
)
"""What a bare machine with a GPU may lack."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The results of the quick list on the CPU, where imports of what may be absent fail."""
    there = tmp_path_factory.mktemp("on_gpu")
    for name in ABSENT:
        (there / "absent" / name).mkdir(parents=True)
        text = f"raise ModuleNotFoundError('no {name} on this machine', name={name!r})\n"
        (there / "absent" / name / "__init__.py").write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(there / "absent"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--output", str(there), "--device", "cpu", "--quick"]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    logs = "".join(log.read_text(encoding="utf-8") for log in sorted((there / "logs").glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return there


@pytest.mark.slow
def test_the_quick_list_runs_on_a_cpu_with_few_packages(folder: Path) -> None:
    found = json.loads((folder / "on_gpu.json").read_text(encoding="utf-8"))
    assert [(stage["name"], stage["standing"], stage["error"]) for stage in found["stages"]] == [
        (stage.name, "ok", "") for stage in STAGES
    ]
    records = {stage["name"]: stage["records"] for stage in found["stages"]}
    assert all("summary" in records[name][-1] for name in records)
    assert {record["batches"] for record in records["batches"] if "batches" in record} == {
        "host",
        "resident",
        "recorded",
    }
    assert records["resume"][0]["largest_difference_of_a_weight"] == 0
    assert all(record["ms_per_step"] > 0 for record in records["training"][:-1])


@pytest.mark.slow
def test_the_page_says_what_came_out(folder: Path) -> None:
    page = (folder / "on_gpu.md").read_text(encoding="utf-8")
    for stage in STAGES:
        assert f"| {stage.name} | ok |" in page
    assert "What failed" not in page
    assert "numbers mean nothing" in page


def test_all_stages_together_stay_within_nine_minutes() -> None:
    assert sum(stage.seconds for stage in STAGES) <= SECONDS <= 9 * 60 - 5


def well(_plan: Plan) -> Iterator[Record]:
    yield {"size": 3, "ok": True}
    yield {"summary": "went well"}


def wrong(_plan: Plan) -> Iterator[Record]:
    yield {"size": 3, "ok": True}
    yield {"size": 4, "ok": False}


def raises(_plan: Plan) -> Iterator[Record]:
    yield {"size": 5}
    raise RuntimeError("CUDA error:\n an illegal memory access")


def dies(plan: Plan) -> Iterator[Record]:
    if plan.quick:
        os.abort()
    yield {}


def hangs(plan: Plan) -> Iterator[Record]:
    helper = subprocess.Popen(["sleep", "90"])
    yield {"helper": helper.pid}
    time.sleep(90)


@pytest.mark.parametrize(
    ("work", "standing", "error", "records"),
    [
        (well, "ok", "", 2),
        (wrong, "FAILED", "1 of 2 checks failed", 2),
        (raises, "FAILED", "RuntimeError: CUDA error: an illegal memory access", 1),
        (dies, "FAILED", "the process ended with exit code -6", 0),
    ],
)
def test_whatever_becomes_of_a_stage_is_written_down(
    work: object, standing: str, error: str, records: int, tmp_path: Path
) -> None:
    stage = Stage("one", 30, "does it?", f"{__name__}:{getattr(work, '__name__', '')}")
    outcome = run_stage(stage, Plan("cpu", True, 30), tmp_path, multiprocessing.get_context("forkserver"))
    assert (outcome.standing, outcome.error, len(outcome.records)) == (standing, error, records)
    page = report({"device": "cpu", "quick": False, "stages": [vars(outcome)]})
    assert (f"- **one** (does it?): {error}" in page) == (standing != "ok")
    assert ("| went well |" in page) == (standing == "ok")


def test_a_stage_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    stage = Stage("slow", 2, "does it hang?", f"{__name__}:{hangs.__name__}")
    for seconds in (3, 12, 48):  # a busy machine takes long to begin
        outcome = run_stage(stage, Plan("cpu", True, seconds), tmp_path, multiprocessing.get_context("forkserver"))
        assert outcome.standing == "OUT OF TIME"
        if outcome.records:
            break
    (record,) = outcome.records
    status = Path(f"/proc/{record['helper']}/stat")
    deadline = time.monotonic() + 30  # a killed process takes a moment
    while status.exists() and status.read_text(encoding="utf-8").split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "in hangs" in (tmp_path / "logs" / "slow.log").read_text(encoding="utf-8")  # where it hung


def test_an_unknown_stage_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--stages", "kernel"]) == 2
    assert capsys.readouterr().err == "error: --stages: unknown name 'kernel' (did you mean 'kernels'?)\n"
