"""How time and memory of one machine grow with the size of what it is given: each thing at a tenth and whole.

    python -m benchmarks.one_machine                     # all, some ten minutes and 1 GB of disk
    python -m benchmarks.one_machine --only store cell   # some

Each is made in one process and used in another, whose processor time and memory are printed: on a shared machine the
clock says little. What grows in proportion has a ratio of 10; less where something is done once.
"""

import argparse
import contextlib
import io
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
SWEEP = "large"
MODEL = ROOT / "crystalframer" / "pretrained" / "mp-bulk-modulus.pt"


@dataclass(frozen=True)
class Case:
    """Something that may be large."""

    what: str
    size: int
    make: Callable[[int, Path], object]
    use: Callable[[int, Path], object]


def nothing(size: int, folder: Path) -> None:
    """Make nothing beforehand."""


def answer_rows(size: int, folder: Path) -> None:
    """Predict a request of so many rows."""
    from crystalframer.prediction import load_predictor
    from crystalframer.prediction.served import RowPredictor

    texts = [f"x\n{5 + row / size}\n1 0 0\n0 1 0\n0 0 1\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n" for row in range(size)]
    found = RowPredictor(load_predictor(MODEL)).predict(texts, [str(row) for row in range(size)])
    assert not any(found.errors), "all rows are sound"


def predict_cell(size: int, folder: Path) -> None:
    """Predict a cell of so many atoms."""
    import numpy as np

    from crystalframer.geometry.crystal import Crystal
    from crystalframer.prediction import load_predictor

    side = round((size / 2) ** (1 / 3) + 0.5)
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[: size // 2]
    coords = np.vstack([places, places + 0.5]) / side
    numbers = np.repeat([55, 17], size // 2)
    assert np.isfinite(
        load_predictor(MODEL).predict(Crystal(4.1 * side * np.eye(3), coords, numbers, "x")).values
    ).all()


def make_files(size: int, folder: Path) -> None:
    """Write so many small CIFs."""
    for number in range(size):
        (folder / f"{number}.cif").write_bytes(b"data_x\n")


def list_files(size: int, folder: Path) -> None:
    """Find them, and give each its name."""
    from crystalframer.data.structures.files import look_through, unique_ids

    assert len(unique_ids(look_through(folder).structures)) == size, "all are found"


def make_store(size: int, folder: Path) -> None:
    """Write a store of so many crystals of four atoms."""
    import numpy as np

    from crystalframer.data.dataset import CrystalDataset, Task
    from crystalframer.data.store import write_store

    random = np.random.default_rng(0)
    split = (np.arange(size) % 10 > 7).astype(np.int8)
    dataset = CrystalDataset(
        name="large",
        ids=np.array([f"crystal-{row}" for row in range(size)]),
        offsets=4 * np.arange(size + 1),
        lattice=np.tile(5.0 * np.eye(3), (size, 1, 1)),
        frac_coords=random.random((4 * size, 3)),
        atomic_numbers=random.integers(1, 90, 4 * size),
        tasks={"energy": Task("energy", "eV", random.random(size), split)},
    )
    write_store(folder / "large", dataset, {})


def read_stored(size: int, folder: Path) -> None:
    """Open it for the first time, its checksum verified."""
    from crystalframer.data.store import read_store

    assert len(read_store(folder / "large")) == size, "all are there"


def write_sweep(size: int, folder: Path) -> list[Any]:
    """Write a sweep of so many trials; return them."""
    import yaml

    from crystalframer.orchestration.sweeps.spec import load_sweep

    prose = dict.fromkeys(("question", "expectation"), "How does it grow?")
    data = {"dataset": "sample", "task": "formation_energy", "train_size": 64, "val_size": 4, "test_size": 4}
    path = folder / f"{SWEEP}.yaml"
    base = {"data": data, "train": {"epochs": 3, "batch_size": 32, "average_epochs": 0}}
    path.write_text(yaml.safe_dump({**prose, "base": base, "grid": {"train.seed": list(range(size))}}))
    return load_sweep(path).trials()


def command(folder: Path, *words: str) -> None:
    """Run a command of the program in this process, silently."""
    from crystalframer import cli

    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main([*words, "--runs", str(folder / "runs")]) == 0, words


def dry_run(size: int, folder: Path) -> None:
    """List what a sweep would do."""
    command(folder, "sweep", str(folder / f"{SWEEP}.yaml"), "--dry-run")


def make_runs(size: int, folder: Path) -> None:
    """Write the folders of so many finished trials of three epochs, and the plan."""
    from crystalframer.atomic_files import append_line
    from crystalframer.data.registry import load_task
    from crystalframer.runs.json_files import sealed
    from crystalframer.runs.status import write_plan

    trials = write_sweep(size, folder)
    data = load_task(trials[0].config.data)
    runs = folder / "runs" / SWEEP
    runs.mkdir(parents=True)
    write_plan(runs, [trial.planned(data.unit) for trial in trials])
    append_line(runs / "driver.json", sealed({"ended": True}))
    values = {"val/mae_eV_per_atom": 0.5, "seconds_per_epoch": 1.0}
    lines = "".join(sealed({"step": step, "time_ms": 1, "values": values}) + "\n" for step in (1, 2, 3))
    state = sealed({"state": "done", "attempt": "x", "epoch": 3, "epochs": 3})
    errors = dict.fromkeys(("val_mae", "test_mae", "test_rmse", "baseline_mae"), 0.5)
    for trial in trials:
        place = runs / trial.name
        place.mkdir()
        config = trial.config
        identity = {"fingerprint": config.fingerprint(), "dataset_fingerprint": data.fingerprint}
        (place / "config.json").write_text(sealed({**identity, "settings": config.to_dict()}))
        (place / "metrics.jsonl").write_text(lines)
        (place / "state.json").write_text(state)
        final = {"step": 3, "time_ms": 1, "values": {}}
        result = {"trial": trial.name, "unit": data.unit, **errors, "tags": {}, "final": final}
        (place / "done.json").write_text(sealed(result))


def status(size: int, folder: Path) -> None:
    """Say where the sweep stands."""
    command(folder, "status", SWEEP)


def make_mlflow(size: int, folder: Path) -> None:
    """Record a trial in MLflow, and copy its rows so often."""
    from crystalframer.orchestration.tracking.experiment import MlflowExperiment
    from crystalframer.orchestration.tracking.server import create_database, database_uri
    from crystalframer.runs.tracker import StepMetrics

    trial = write_sweep(1, folder)[0]
    create_database(folder)
    tracker = MlflowExperiment(database_uri(folder), SWEEP).tracker()
    steps = [StepMetrics(step, 1, {f"val/{name}": 0.5 for name in "abcdef"}) for step in (1, 2, 3)]
    tracker.start("0", trial.config.to_flat_dict(), {"sweep": SWEEP, "current": "true"}, steps)
    tracker.finish("FINISHED")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {size - 1})"
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            new = {"run_uuid": "printf('%032d', i)"}
            if table == "tags":
                new["value"] = "CASE key WHEN 'run_key' THEN i ELSE value END"
            chosen = ", ".join(new.get(name, name) for name in columns)
            database.execute(f"INSERT INTO {table} ({', '.join(columns)}) {numbers} SELECT {chosen} FROM {table}, n")


def resume_in_mlflow(size: int, folder: Path) -> None:
    """Do what a sweep's start does in MLflow: find its runs and mark those that count."""
    from crystalframer.orchestration.tracking.experiment import MlflowExperiment
    from crystalframer.orchestration.tracking.server import database_uri

    experiment = MlflowExperiment(database_uri(folder), SWEEP)
    experiment.mark_current({str(number) for number in range(size)}, "", {}, set())
    assert len(experiment.runs()) == size, "all are there"


CASES = {
    "rows": Case("rows served in one request", 10_000, nothing, answer_rows),
    "cell": Case("atoms of a cell that is predicted", 20_000, nothing, predict_cell),
    "files": Case("CIFs in a folder: listed and named", 100_000, make_files, list_files),
    "store": Case("crystals of a store: opened, its checksum verified", 1_000_000, make_store, read_stored),
    "dry-run": Case("trials of a sweep: --dry-run", 5_000, write_sweep, dry_run),
    "resume": Case("trials that are done: --dry-run", 20_000, make_runs, dry_run),
    "status": Case("trials that are done: status", 20_000, make_runs, status),
    "mlflow": Case("runs in MLflow: a sweep's start", 20_000, make_mlflow, resume_in_mlflow),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="these alone")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        _work(*options.child)
        return 0
    print("| | size | processor, a tenth / whole | ratio | memory, a tenth / whole |\n|---|---:|---:|---:|---:|")
    for name in options.only:
        case = CASES[name]
        (little, small), (much, large) = (_measured(name, size) for size in (case.size // 10, case.size))
        times, sizes = f"{little:.1f} / {much:.1f} s", f"{small:,.0f} / {large:,.0f} MiB"
        print(f"| {case.what} | {case.size:,} | {times} | {much / little:.1f} | {sizes} |", flush=True)
    return 0


def _measured(name: str, size: int) -> tuple[float, float]:
    """Return the processor time (s) and the peak resident memory (MiB) of a use, imports included."""
    with tempfile.TemporaryDirectory(prefix="one_machine-") as folder:
        for part in ("make", "use"):
            child = [sys.executable, "-m", "benchmarks.one_machine", "--child", name, part, str(size), folder]
            done = subprocess.run(child, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found: tuple[float, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _work(name: str, part: str, size: str, folder: str) -> None:
    getattr(CASES[name], part)(int(size), Path(folder))
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = time.process_time() + usages[1].ru_utime + usages[1].ru_stime
    print(json.dumps([seconds, max(usage.ru_maxrss for usage in usages) / 1024]))


if __name__ == "__main__":
    sys.exit(main())
