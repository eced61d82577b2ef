"""What a sweep costs beside its trials: time per trial, and the driver's memory over many of them.

Trials wait instead of training, so that what is measured is Ray, MLflow, run directories and the driver. A trial of
SECONDS would take just that if it were run bare; what it takes longer is the orchestration's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from crystalframer.environment import cores

ROOT = Path(__file__).absolute().parents[1]
TRAINER = "benchmarks.waiting_trainer:WaitingTrainer"
SAMPLE_SECONDS = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the figures as JSON, and return the exit code of the sweep."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        code, figures = measure(Path(folder), options)
    print(json.dumps(figures, indent=1))
    return code


def measure(folder: Path, options: argparse.Namespace) -> tuple[int, dict[str, float]]:
    """Run a sweep of waiting trials and return its exit code and the figures."""
    import yaml

    prose = dict.fromkeys(("question", "expectation", "command", "duration"), "What does orchestration cost?")
    data = {"dataset": "sample", "task": "formation_energy", "train_size": 64, "val_size": 4, "test_size": 4}
    train = {"epochs": options.epochs, "batch_size": 32, "average_epochs": 0}
    grid = {"train.seed": list(range(options.trials))}
    sweep = folder / "waiting.yaml"
    sweep.write_text(yaml.safe_dump({**prose, "base": {"data": data, "train": train}, "grid": grid}))
    command = [sys.executable, str(ROOT / "pipelines" / "ablate_frames.py"), str(sweep), "--trainer", TRAINER]
    command += ["--runs", str(folder / "runs"), "--output", str(folder / "output")]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "CRYSTALFRAMER_WAITING_SECONDS": str(options.seconds / options.epochs),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = time.monotonic()
    memory: list[tuple[int, float]] = []
    with (folder / "log").open("w") as log:
        driver = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while driver.poll() is None:
            time.sleep(SAMPLE_SECONDS)
            done = sum(1 for _ in (folder / "runs" / "waiting").glob("*/done.json"))
            if (size := _resident_mib(driver.pid)) is not None:
                memory.append((done, size))
    return driver.returncode, _figures(folder / "runs" / "waiting", options, memory, time.monotonic() - started)


def _figures(
    folder: Path, options: argparse.Namespace, memory: Sequence[tuple[int, float]], wall: float
) -> dict[str, float]:
    states = [json.loads(path.read_text()) for path in folder.glob("*/state.json")]
    firsts = [
        json.loads(path.read_text().split("\n", 1)[0])["time_ms"] / 1000 for path in folder.glob("*/metrics.jsonl")
    ]
    began, ended = min(firsts) - options.seconds / options.epochs, max(state["updated"] for state in states)
    workers = min(cores(), options.trials)
    bare = options.trials * options.seconds / workers
    running = [size for done, size in memory if options.trials / 10 <= done < options.trials] or [0.0]
    return {
        "trials": options.trials,
        "done": sum(state["state"] == "done" for state in states),
        "seconds_per_trial": options.seconds,
        "workers": workers,
        "wall_seconds": round(wall, 1),
        "start_and_end_seconds": round(wall - (ended - began), 1),
        "bare_seconds": bare,
        "over_bare": round((ended - began) / bare - 1, 4),
        "extra_seconds_per_trial": round((ended - began - bare) * workers / options.trials, 3),
        "driver_mib_at_a_tenth": round(running[0], 1),
        "driver_mib_at_the_end": round(running[-1], 1),
    }


def _resident_mib(pid: int) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = [line for line in lines if line.startswith("VmRSS:")]
    return int(found[0].split()[1]) / 1024 if found else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6, help="number of trials (default: 6)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time of a trial run bare (default: 60)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of a trial (default: 20)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
