"""A worker's side of a sweep: the process on some machine of the cluster that trains."""

import importlib
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from crystalframer.data.registry import load_task_once
from crystalframer.errors import one_line
from crystalframer.orchestration.cluster.failures import Failure, Hopeless
from crystalframer.orchestration.cluster.surroundings import require_visible
from crystalframer.orchestration.tracking.buffered import mlflow_tracker
from crystalframer.runs.trial import TrialJob, TrialProgress, run_trial

STOP_CHECK_SECONDS = 1.0
"""How often a worker looks whether it should stop."""
REPORT_SECONDS = 0.5
"""Shortest time between two reports of a worker: each costs a round trip."""


class SweepTrial(tune.Trainable):
    """Steps through `run_trial`, and through the next trial after that."""

    def setup(self, config: dict[str, Any], credentials: Mapping[str, str] | None = None) -> None:
        """Take up the trial; the work starts with the first step. `credentials` are those of `mlflow_tracker`."""
        self._credentials = credentials or {}
        self._progress: Generator[TrialProgress, None, None] | None = None
        self._has_failed = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process."""
        self.cleanup()
        return True

    def step(self) -> dict[str, Any]:
        """Train until there is something worth reporting.

        A failure is reported as a value, since errors reach the driver without their causes, if at all. After one that
        another attempt may mend, the process ends: it may have lost its device or its memory.
        """
        if self._has_failed:
            raise RuntimeError("the process ends after the failure that it has reported")
        job: TrialJob = self.config["job"]
        reported = time.monotonic()
        try:
            if self._progress is None:
                self._progress = _work(job, self._credentials)
            for progress in self._progress:
                due = progress.epoch in job.decide_at or time.monotonic() - reported >= REPORT_SECONDS
                if progress.result is not None or due:
                    return {"progress": asdict(progress), "done": progress.result is not None}
        except Exception as error:  # noqa: BLE001 (whatever it is, the driver hears of it and decides)
            failure = Failure.of(error, one_line(error))
            self._has_failed = not Hopeless().detects(failure)
            return {"failure": asdict(failure), "done": not self._has_failed}
        return {"stopped": True, "done": True}

    def cleanup(self) -> None:
        """Leave the trial; if it is not done it saves a checkpoint first."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def _work(job: TrialJob, credentials: Mapping[str, str]) -> Generator[TrialProgress, None, None]:
    import torch

    from crystalframer.training.devices import check_device

    if job.marker is not None:
        require_visible(job.marker)
    check_device(job.device)
    if job.cpus is not None:
        torch.set_num_threads(job.cpus)  # the compiled kernels follow it; Ray sets OMP_NUM_THREADS
    if job.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    module, _, attribute = job.trainer.partition(":")
    return run_trial(
        job,
        load_task_once(job.trial.config.data),
        mlflow_tracker(job.tracking_uri, job.experiment_id, credentials),
        getattr(importlib.import_module(module), attribute),
        stop_requested=_StopFile(job.stop_file) if job.stop_file else lambda: False,
    )


class _StopFile:
    """Looks for the file that says that the sweep should stop, about once a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self._looked < STOP_CHECK_SECONDS:
            return False
        self._looked = time.monotonic()
        return self._path.exists()
