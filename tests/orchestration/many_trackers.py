"""Many trials that log to one MLflow server at the same time, and a count of what arrived.

``python -m tests.orchestration.many_trackers URI`` starts 8 processes of 8 trials each against a server and prints what
they lost and how fast it went.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

from crystalframer.orchestration.tracking.buffered import PatientTracker
from crystalframer.orchestration.tracking.client import connect, is_away
from crystalframer.orchestration.tracking.experiment import MlflowExperiment, MlflowTracker
from crystalframer.runs.tracker import StepMetrics

PROCESSES, TRIALS_EACH, CHECKPOINTS, EPOCHS_EACH, METRICS = 8, 8, 8, 5, 7
ROOT = Path(__file__).parents[2]


def log_at_once(uri: str, name: str) -> float:
    """Let the trials log into a new experiment, and return how many seconds that took from the first to the last."""
    experiment = MlflowExperiment(uri, name)
    command = [sys.executable, "-m", "tests.orchestration.many_trackers", uri, experiment.id]
    processes = [
        subprocess.Popen([*command, str(n)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    for process in processes:
        process.communicate("go\n", timeout=900)
        assert process.returncode == 0
    return time.monotonic() - started


def lost(uri: str, name: str) -> int:
    """Return how many points of how many the server lacks, or holds twice."""
    client = connect(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert sorted(run.data.tags["run_key"] for run in runs) == sorted(
        f"trial-{n}-{m}" for n in range(PROCESSES) for m in range(TRIALS_EACH)
    )
    missing = 0
    for run in runs:
        assert run.info.status == "FINISHED"
        for metric in range(METRICS):
            points = client.get_metric_history(run.info.run_id, f"metric_{metric}")
            expected = [(step, step + metric / 10) for step in range(1, CHECKPOINTS * EPOCHS_EACH + 1)]
            got = sorted((point.step, point.value) for point in points)
            missing += len(set(expected) ^ set(got)) + len(got) - len(set(got))
    return missing


def _trial(uri: str, experiment_id: str, key: str) -> None:
    tracker = PatientTracker(MlflowTracker(uri, experiment_id), is_away)
    tracker.start(key, {f"setting_{n}": n for n in range(40)}, {"sweep": "many"})
    for checkpoint in range(CHECKPOINTS):
        first = checkpoint * EPOCHS_EACH + 1
        tracker.log_metrics(
            StepMetrics(step, time.time_ns() // 10**6, {f"metric_{n}": step + n / 10 for n in range(METRICS)})
            for step in range(first, first + EPOCHS_EACH)
        )
    tracker.finish("FINISHED")
    assert tracker.behind == 0, f"{key}: {tracker.behind} entries not recorded"


def _process(uri: str, experiment_id: str, number: str) -> None:
    connect(uri).get_experiment(experiment_id)
    print("ready", flush=True)
    sys.stdin.readline()
    failed: list[BaseException] = []
    threading.excepthook = lambda arguments: failed.append(arguments.exc_value or RuntimeError())
    trials = [
        threading.Thread(target=_trial, args=(uri, experiment_id, f"trial-{number}-{n}")) for n in range(TRIALS_EACH)
    ]
    for trial in trials:
        trial.start()
    for trial in trials:
        trial.join()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _process(*sys.argv[1:])
    else:
        address, experiment_name = sys.argv[1], f"many-{time.time_ns()}"
        seconds = log_at_once(address, experiment_name)
        points = PROCESSES * TRIALS_EACH * CHECKPOINTS * EPOCHS_EACH * METRICS
        print(f"{PROCESSES * TRIALS_EACH} trials, {points} points in {seconds:.1f} s: {points / seconds:.0f} points/s")
        print(f"lost: {lost(address, experiment_name)}")
