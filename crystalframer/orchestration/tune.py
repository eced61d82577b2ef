"""Ray Tune: where and when the trials of a sweep run, and what becomes of those whose worker dies.

Ray schedules, restarts and reports; what a trial is and how it resumes is ours (run_directory.py), so Ray's own
experiment state is thrown away. Importing this module imports Ray, which takes seconds.
"""

import importlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

os.environ |= {  # read when Ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",  # our screen says so in a line
}

import ray
from ray import tune
from ray.exceptions import AuthenticationError, RayActorError
from ray.tune.experiment import Trial as RayTrial

from crystalframer.config import DataConfig, trial_from_dict
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.orchestration import cluster, mlflow_gate, mlflow_store
from crystalframer.orchestration.run_directory import RunDirectory
from crystalframer.orchestration.spec import Resources, Trial
from crystalframer.orchestration.trial import TrainerFactory, TrialProgress, one_line, run_trial

REPORT_SECONDS = 0.5
"""Shortest time between two reports of a worker: each costs a round trip."""
NODE_CHECK_SECONDS = 10.0
"""How often the driver makes sure that Ray itself is still there."""
OBJECT_STORE_BYTES = 100 * 1024**2
"""Ray's shared memory on one machine; trials share files, not objects."""


@dataclass(frozen=True)
class TrialJob:
    """Everything a worker needs to run a trial, in plain values."""

    name: str
    settings: dict[str, Any]
    """As `TrialConfig.to_dict` writes them."""
    directory: str
    """Absolute path of the run directory."""
    tracking_uri: str
    experiment_id: str
    tags: dict[str, str]
    """What the sweep says of the run."""
    cpus: int
    device: str
    checkpoint_seconds: float
    trainer: str
    """Where the trainer's class is, as ``module:name``."""
    snapshots: int = 0
    """How many models to keep from evenly spaced epochs."""
    marker: str = ""
    """A file that the driver made beside the run directories; a worker that does not see it is on the wrong storage."""
    signs_in: bool = False
    """Whether the tracking server stands behind the cluster's gate."""


class Watcher(Protocol):
    """Is told what becomes of the trials."""

    def started(self, name: str) -> None:
        """A worker took up a trial."""

    def progressed(self, name: str, progress: TrialProgress) -> None:
        """A trial finished an epoch, or itself when `progress` has a result."""

    def retried(self, name: str, reason: str) -> None:
        """A trial failed and will be started again."""

    def failed(self, name: str, reason: str) -> None:
        """A trial failed for good."""

    def stopping(self) -> None:
        """The user asked for the end."""


@dataclass
class TuneOutcome:
    """How the trials ended; those in neither are done."""

    failed: dict[str, str] = field(default_factory=dict)
    """Reasons by trial name."""
    interrupted: signal.Signals | None = None
    """The signal that stopped the sweep, if one did."""


@contextmanager
def ray_session(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Start a local Ray for the duration of the block, or join the cluster at `address`, unless that was done already.

    Raises:
        UserError: no cluster answers at the address, or it does not let us in.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # the screen tells what matters, errors reach us as values
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        os.environ |= mlflow_store.ENVIRONMENT  # inherited by the workers
        # only who holds this process's token is let in, even among the users of this machine
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=_short_temporary_folder(),
            **quiet,
        )
    else:
        try:
            ray.init(address=address, runtime_env={"env_vars": mlflow_store.ENVIRONMENT}, **quiet)
        except ConnectionError as error:
            raise UserError(f"no Ray cluster answers at --address {address!r}; start one, or leave it out") from error
        except AuthenticationError as error:
            raise UserError(
                f"the Ray cluster at {address!r} asks for its token: set RAY_AUTH_MODE=token, and put the token that "
                "`ray get-auth-token` shows on its head into ~/.ray/auth_token"
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_resources(resources: Resources) -> None:
    """Check that this machine, or the cluster as it is now, could run at least one trial.

    Raises:
        UserError: it could not, and Ray would wait forever.
    """
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for what, needed in (("CPU", float(resources.cpus_per_trial)), ("GPU", resources.gpus_per_trial)):
        if needed > available.get(what, 0.0):
            raise UserError(
                f"a trial asks for {needed:g} {what}s but there are {available.get(what, 0.0):g} here: run the sweep "
                f"on a larger machine or cluster (--address), or ask for less with "
                f"--set resources.{what.lower()}s_per_trial=N"
            )


def run_jobs(
    name: str,
    jobs: Sequence[TrialJob],
    resources: Resources,
    watcher: Watcher,
    *,
    max_failures: int,
    max_concurrent: int | None,
    scratch: Path,
) -> TuneOutcome:
    """Run the trials until all are done, failed for good, or the user stops the sweep (SIGINT or SIGTERM).

    Args:
        name: the sweep's name.
        jobs: what to run, in this order.
        resources: what one trial occupies.
        watcher: is told what happens.
        max_failures: how often a failed trial is started again.
        max_concurrent: bound on the trials at a time, None for as many as the resources allow.
        scratch: absolute folder for Ray's own records of the sweep, which are removed.
    """
    outcome = TuneOutcome()
    shutil.rmtree(scratch, ignore_errors=True)
    with _signals_stop(outcome):
        tuner = tune.Tuner(
            tune.with_resources(SweepTrial, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}),
            param_space={"job": tune.grid_search([asdict(job) for job in jobs])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
                trial_name_creator=_ray_trial_name,
                trial_dirname_creator=_ray_trial_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Events(watcher, outcome)],
                stop=_StopWhenInterrupted(outcome),
                verbose=0,
            ),
        )
        tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)
    return outcome


class SweepTrial(tune.Trainable):
    """A worker's side: steps through `run_trial`, and through the next trial after that."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take up the trial; the work starts with the first step."""
        self._progress: Iterator[TrialProgress] | None = None

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
                if progress.result is not None or time.monotonic() - reported >= REPORT_SECONDS:
                    return {"progress": asdict(progress), "done": progress.result is not None}
        except (UserError, RuntimeError) as error:
            if not _would_repeat(error):
                raise  # and let Ray try again
            return {"mistake": one_line(error), "done": True}
        raise AssertionError("a trial ends with its result")

    def cleanup(self) -> None:
        """Leave the trial; if it is not done it saves a checkpoint first."""
        if self._progress is not None:
            self._progress.close()  # type: ignore[attr-defined]
            self._progress = None


def _work(job: TrialJob) -> Iterator[TrialProgress]:
    import torch

    if job.marker:
        cluster.require_visible(Path(job.marker))
    if job.signs_in:
        mlflow_gate.sign_in()
    torch.set_num_threads(job.cpus)  # the compiled kernels follow it; Ray sets OMP_NUM_THREADS
    trial = Trial(job.name, trial_from_dict(job.settings))
    module, _, attribute = job.trainer.partition(":")
    return run_trial(
        trial,
        _cached_task(trial.config.data),
        RunDirectory(Path(job.directory)),
        mlflow_store.MlflowTracker(job.tracking_uri, job.experiment_id),
        cast(TrainerFactory, getattr(importlib.import_module(module), attribute)),
        tags=job.tags,
        device=job.device,
        checkpoint_seconds=job.checkpoint_seconds,
        snapshots=job.snapshots,
    )


def _would_repeat(error: Exception) -> bool:
    """Return whether another attempt would fail in the same way."""
    from crystalframer.training.optimizer import TrainingDivergedError

    return isinstance(error, UserError | TrainingDivergedError)


@lru_cache(maxsize=1)
def _cached_task(config: DataConfig) -> TaskData:
    return load_task(config)


class _Events(tune.Callback):
    """Translates Tune's callbacks for a watcher."""

    def __init__(self, watcher: Watcher, outcome: TuneOutcome) -> None:
        self._watcher = watcher
        self._outcome = outcome
        self._announced = False
        self._checked_at = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks, for a way of resuming that is not ours; a screen cannot be pickled

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        if self._outcome.interrupted is not None and not self._announced:
            self._announced = True
            self._watcher.stopping()
        if time.monotonic() - self._checked_at > NODE_CHECK_SECONDS:
            self._checked_at = time.monotonic()
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
            if not any(node["Alive"] for node in nodes):  # or Tune would wait for workers for ever
                raise UserError("Ray's own process died, out of memory perhaps; the same command goes on from here")

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self._watcher.started(_name(trial))

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "mistake" in result:
            self._fail(trial, result["mistake"])
        else:
            self._watcher.progressed(_name(trial), TrialProgress(**result["progress"]))

    def on_trial_recover(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self._watcher.retried(_name(trial), _reason(trial))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self._fail(trial, _reason(trial))

    def _fail(self, trial: RayTrial, reason: str) -> None:
        self._outcome.failed[_name(trial)] = reason
        self._watcher.failed(_name(trial), reason)


class _StopWhenInterrupted(tune.Stopper):
    """Ends the sweep in good order once a signal asked for it."""

    def __init__(self, outcome: TuneOutcome) -> None:
        self._outcome = outcome

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._outcome.interrupted is not None


@contextmanager
def _signals_stop(outcome: TuneOutcome) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop the sweep in good order, and the second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if outcome.interrupted is not None:
            raise KeyboardInterrupt
        outcome.interrupted = signal.Signals(number)

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _ray_trial_name(trial: RayTrial) -> str:
    return str(trial.config["job"]["name"])


def _name(trial: RayTrial) -> str:
    return str(trial.config["job"]["name"])


def _reason(trial: RayTrial) -> str:
    error = trial.get_pickled_error()
    if error is None or isinstance(error, RayActorError):
        return "its worker process died"
    cause = getattr(error, "cause", None) or error.__cause__ or error
    return one_line(cause)


def _short_temporary_folder() -> str:
    """Return where Ray may keep its sockets, whose paths must stay below about 100 characters."""
    folder = Path(tempfile.gettempdir()) / f"crystalframer-ray-{os.getuid()}"
    return str(folder if len(str(folder)) < 40 else Path("/tmp") / folder.name)
