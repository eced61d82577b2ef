"""How time and memory of one machine grow with the size of what it is given: each thing at a tenth and whole.

    python -m benchmarks.one_machine                     # all, an hour or so and 2 GB of disk
    python -m benchmarks.one_machine --only store cell   # some

Each is made in one process and used in another, whose processor time and memory are printed: on a shared machine the
clock says little. What grows in proportion has a ratio of 10; less where something is done once. How long a sweep takes
to start and to stop is measured by the clock, and printed by itself.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
SWEEP = "large"
BOUND_SECONDS = 1800
"""Longest that any step may take, by the clock."""
START = 5_000
"""Trials of a sweep that is started and stopped."""
FEW = 4
"""Trials that it finishes before."""
RATES = [1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3]
"""Learning rates of a large sweep: rows of its table."""
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
    base = {
        "data": {"dataset": "sample", "task": "formation_energy", "train_size": 64, "val_size": 4, "test_size": 4},
        "model": {
            "num_blocks": 1,
            "width": 8,
            "num_heads": 2,
            "ffn_width": 8,
            "num_dist": 8,
            "num_angl": 4,
            "cutoff": 3.0,
        },
        "train": {"epochs": 3, "batch_size": 32, "average_epochs": 0},
    }
    grid = {"train.learning_rate": RATES, "train.seed": list(range(size // len(RATES)))}
    path = folder / f"{SWEEP}.yaml"
    path.write_text(yaml.safe_dump({**prose, "base": base, "grid": grid}))
    return load_sweep(path).trials()


def command(folder: Path, *words: str) -> None:
    """Run a command of the program in this process, silently."""
    from crystalframer import cli

    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main([*words, "--runs", str(folder / "runs")]) == 0, words


def dry_run(size: int, folder: Path) -> None:
    """List what a sweep would do."""
    command(folder, "sweep", str(folder / f"{SWEEP}.yaml"), "--dry-run")


def make_runs(size: int, folder: Path) -> list[Any]:
    """Train one trial, make its folder into those of so many finished ones, and write the plan; return the trials."""
    from crystalframer.atomic_files import append_line
    from crystalframer.data.registry import load_task
    from crystalframer.runs.json_files import sealed
    from crystalframer.runs.run_directory import RunDirectory
    from crystalframer.runs.status import write_plan
    from crystalframer.runs.tracker import Tracker
    from crystalframer.runs.trial import TrialJob, run_trial
    from crystalframer.training.trainer import Trainer

    trials = write_sweep(size, folder)
    data = load_task(trials[0].config.data)
    runs = folder / "runs" / SWEEP
    runs.mkdir(parents=True)
    write_plan(runs, [trial.planned(data.unit) for trial in trials])
    append_line(runs / "driver.json", sealed({"ended": True}))
    first = RunDirectory(runs / trials[0].name)
    for _ in run_trial(TrialJob(trials[0], first), data, Tracker(), Trainer):
        pass
    result, files = first.result(), [path.relative_to(first.path) for path in first.path.rglob("*") if path.is_file()]
    assert result is not None, "it is done"
    for trial in trials[1:]:
        place = runs / trial.name
        (place / "predictions").mkdir(parents=True)
        for file in files:
            os.link(first.path / file, place / file)
        config = trial.config
        identity = {"fingerprint": config.fingerprint(), "dataset_fingerprint": data.fingerprint}
        own = {"config.json": {**identity, "settings": config.to_dict()}, "done.json": {**result, "trial": trial.name}}
        for name, content in own.items():
            (place / name).unlink()
            (place / name).write_text(sealed(content))
    return trials


def status(size: int, folder: Path) -> None:
    """Say where the sweep stands."""
    command(folder, "status", SWEEP)


def make_mlflow(size: int, folder: Path) -> None:
    """Record one of so many finished trials in MLflow, and copy its rows for the others, with their own settings."""
    from crystalframer.orchestration.tracking.experiment import MlflowExperiment
    from crystalframer.orchestration.tracking.server import create_database, database_uri
    from crystalframer.runs.recording import record_finished
    from crystalframer.runs.run_directory import RunDirectory

    trials = make_runs(size, folder)
    runs = folder / "runs"
    create_database(runs)
    os.chdir(folder)  # where MLflow puts artifacts
    tracker = MlflowExperiment(database_uri(runs), SWEEP).tracker()
    first = trials[0]
    record_finished(tracker, first.name, first.config, RunDirectory(runs / SWEEP / first.name))
    with contextlib.closing(sqlite3.connect(runs / "mlflow.db")) as database, database:
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            rows = [dict(zip(columns, row, strict=True)) for row in database.execute(f"SELECT * FROM {table}")]
            marks = ", ".join("?" * len(columns))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", _rows_of(trials[1:], rows, columns))


def _rows_of(trials: Sequence[Any], rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Iterator[list[Any]]:
    """Yield a trial's rows of a table of MLflow's after the other's."""
    for number, trial in enumerate(trials):
        new = {key: str(value) for key, value in trial.config.to_flat_dict().items()} | {"run_key": trial.name}
        for row in rows:
            own = {**row, "run_uuid": f"{number:032d}"}
            if "value" in row and row["key"] in new:
                own["value"] = new[row["key"]]
            yield [own[column] for column in columns]


def find_in_mlflow(size: int, folder: Path) -> None:
    """Do what a sweep's start and end do in MLflow: ask for all of its runs, and mark those that are asked for."""
    from crystalframer.orchestration.tracking.experiment import MlflowExperiment
    from crystalframer.orchestration.tracking.server import database_uri

    experiment = MlflowExperiment(database_uri(folder / "runs"), SWEEP)
    names = set(experiment.mark_current({trial.name for trial in write_sweep(size, folder)}, ""))
    assert len(names) == size == len(experiment.runs()), "all are there"


def track_in_mlflow(size: int, folder: Path) -> None:
    """Record a hundred more trials among them, as workers do."""
    from crystalframer.orchestration.tracking.experiment import MlflowExperiment
    from crystalframer.orchestration.tracking.server import database_uri
    from crystalframer.runs.tracker import StepMetrics

    experiment = MlflowExperiment(database_uri(folder / "runs"), SWEEP)
    for number in range(100):
        tracker = experiment.tracker()
        tracker.start(f"new-{number}", {"a": 1}, {"sweep": SWEEP, "current": "true"})
        tracker.log_metrics([StepMetrics(step, 1, {"val/mae": 0.5}) for step in (1, 2, 3)])
        tracker.finish("FINISHED")


def sweep_again(size: int, folder: Path) -> None:
    """Run the command of a sweep that is done: MLflow is compared with the folders, and the closing table made."""
    command(folder, "sweep", str(folder / f"{SWEEP}.yaml"), "--output", str(folder / "output"))
    counted = f"{size} of {size} trials finished"
    assert counted in (folder / "output" / SWEEP / "ablation_table.md").read_text(), "all are in the table"


CASES = {
    "rows": Case("rows served in one request", 10_000, nothing, answer_rows),
    "cell": Case("atoms of a cell that is predicted", 20_000, nothing, predict_cell),
    "files": Case("CIFs in a folder: listed and named", 100_000, make_files, list_files),
    "store": Case("crystals of a store: opened, its checksum verified", 1_000_000, make_store, read_stored),
    "dry-run": Case("trials of a sweep: `--dry-run`", 5_000, write_sweep, dry_run),
    "resume": Case("trials that are done: `--dry-run`", 20_000, make_runs, dry_run),
    "status": Case("trials that are done: `status`", 20_000, make_runs, status),
    "mlflow": Case("runs in MLflow: asked for at a sweep's start and end", 20_000, make_mlflow, find_in_mlflow),
    "track": Case("runs in MLflow: a hundred more recorded", 20_000, make_mlflow, track_in_mlflow),
    "again": Case("runs in MLflow: the sweep's command again, to its table", 20_000, make_mlflow, sweep_again),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CASES, "start"], default=[*CASES, "start"], help="these alone")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        _work(*options.child)
        return 0
    print("| | size | processor, a tenth / whole | ratio | memory, a tenth / whole |\n|---|---:|---:|---:|---:|")
    for name in filter(CASES.get, options.only):
        case = CASES[name]
        (little, small), (much, large) = (_measured(name, size) for size in (case.size // 10, case.size))
        times, sizes = f"{little:.1f} / {much:.1f} s", f"{small:,.0f} / {large:,.0f} MiB"
        print(f"| {case.what} | {case.size:,} | {times} | {much / little:.1f} | {sizes} |", flush=True)
    if "start" in options.only:
        print("\n| trials of a sweep | first epoch after | the driver holds | its processor time | Ctrl-C to the end |")
        print("|---:|---:|---:|---:|---:|")
        for size in (START // 10, START):
            first, held, used, end = started_and_stopped(size)
            print(f"| {size:,} | {first:.0f} s | {held:,.0f} MiB | {used:.0f} s | {end:.0f} s |", flush=True)
    return 0


def started_and_stopped(size: int) -> tuple[float, float, float, float]:
    """Start a sweep, stop it by Ctrl-C when a few trials are done; return times (s) and the driver's memory (MiB).

    Returns:
        Time to the first epoch, the driver's peak resident memory, its processor time until a few trials were done, and
        time from Ctrl-C to its end.
    """
    with tempfile.TemporaryDirectory(prefix="one_machine-") as name:
        folder = Path(name)
        write_sweep(size, folder)
        words = ["sweep", str(folder / f"{SWEEP}.yaml"), "--runs", str(folder / "runs"), "--output", str(folder)]
        begin = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-m", "crystalframer", *words], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
        ) as driver:
            runs = folder / "runs" / SWEEP
            first = _wait_for(driver, lambda: any(runs.glob("*/metrics.jsonl"))) - begin
            _wait_for(driver, lambda: len(list(runs.glob("*/done.json"))) >= FEW)
            used = sum(map(int, Path(f"/proc/{driver.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
            driver.send_signal(signal.SIGINT)
            asked, held = time.monotonic(), 0.0
            while driver.poll() is None:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
                    held = max(held, int(_said(driver.pid, "VmHWM")) / 1024)
                time.sleep(0.1)
            assert driver.returncode == 130, driver.returncode
            return first, held, used / os.sysconf("SC_CLK_TCK"), time.monotonic() - asked


def _said(pid: int, name: str) -> str:
    """Return what Linux says of a process."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return text.partition(f"{name}:")[2].split()[0]


def _wait_for(driver: "subprocess.Popen[bytes]", happened: Callable[[], bool]) -> float:
    """Wait until something has happened, and return when it had."""
    deadline = time.monotonic() + BOUND_SECONDS
    while not happened():
        assert driver.poll() is None, "the sweep ended"
        assert time.monotonic() < deadline, f"nothing happened for {BOUND_SECONDS} s"
        time.sleep(0.1)
    return time.monotonic()


def _measured(name: str, size: int) -> tuple[float, float]:
    """Return the processor time (s) and the peak resident memory (MiB) of a use, imports included."""
    with tempfile.TemporaryDirectory(prefix="one_machine-") as folder:
        for part in ("make", "use"):
            child = [sys.executable, "-m", "benchmarks.one_machine", "--child", name, part, str(size), folder]
            done = subprocess.run(child, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=BOUND_SECONDS)
        found: tuple[float, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _work(name: str, part: str, size: str, folder: str) -> None:
    getattr(CASES[name], part)(int(size), Path(folder))
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = time.process_time() + usages[1].ru_utime + usages[1].ru_stime
    print(json.dumps([seconds, max(usage.ru_maxrss for usage in usages) / 1024]))


if __name__ == "__main__":
    sys.exit(main())
