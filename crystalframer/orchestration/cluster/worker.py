"""A worker's side of a sweep: the process on some machine of the cluster that trains."""

import importlib
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ray import tune

from crystalframer.config import trial_from_dict
from crystalframer.data.registry import load_task_once
from crystalframer.orchestration.cluster.failures import Failure, Hopeless, TrialFailedError
from crystalframer.orchestration.cluster.jobs import TrialJob
from crystalframer.orchestration.cluster.surroundings import require_visible
from crystalframer.orchestration.tracking import experiment, gate
from crystalframer.orchestration.tracking.buffered import PatientTracker
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import TrainerFactory, Trial, TrialProgress, one_line, run_trial

REPORT_SECONDS = 0.5
"""Shortest time between two reports of a worker: each costs a round trip."""


class SweepTrial(tune.Trainable):
    """Steps through `run_trial`, and through the next trial after that."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take up the trial; the work starts with the first step."""
        self._progress: Generator[TrialProgress, None, None] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process."""
        self.cleanup()
        return True

    def step(self) -> dict[str, Any]:
        """Train until there is something worth reporting."""
        job = TrialJob(**self.config["job"])
        reported = time.monotonic()
        try:
            if self._progress is None:
                self._progress = _work(job)
            for progress in self._progress:
                due = progress.epoch in job.decide_at or time.monotonic() - reported >= REPORT_SECONDS
                if progress.result is not None or due:
                    return {"progress": asdict(progress), "done": progress.result is not None}
        except Exception as error:
            failure = Failure.of(error, one_line(error))
            if not Hopeless().detects(failure):  # the driver decides, and this process ends
                raise TrialFailedError(failure) from error
            return {"failure": asdict(failure), "done": True}
        return {"stopped": True, "done": True}

    def cleanup(self) -> None:
        """Leave the trial; if it is not done it saves a checkpoint first."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def _work(job: TrialJob) -> Generator[TrialProgress, None, None]:
    import torch

    if job.marker:
        require_visible(Path(job.marker))
    if job.signs_in:
        gate.sign_in()
    torch.set_num_threads(job.cpus)  # the compiled kernels follow it; Ray sets OMP_NUM_THREADS
    if job.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    trial = Trial(job.name, trial_from_dict(job.settings))
    module, _, attribute = job.trainer.partition(":")
    return run_trial(
        trial,
        load_task_once(trial.config.data),
        RunDirectory(Path(job.directory)),
        PatientTracker(experiment.MlflowTracker(job.tracking_uri, job.experiment_id), experiment.is_away),
        cast(TrainerFactory, getattr(importlib.import_module(module), attribute)),
        tags=job.tags,
        device=job.device,
        checkpoint_seconds=job.checkpoint_seconds,
        snapshots=job.snapshots,
        decide_at=job.decide_at,
        parent=RunDirectory(Path(job.inherits)) if job.inherits else None,
        stop_requested=Path(job.stop_file).exists if job.stop_file else lambda: False,
    )
