"""Ray Tune: where and when the trials of a sweep run, and what becomes of those whose worker dies.

Ray schedules, restarts and reports; what a trial is and how it resumes is ours (runs/run_directory.py), so Ray's own
experiment state is thrown away. Importing this module imports Ray, which takes seconds.
"""

import itertools
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as RayTrial

from crystalframer.command_line import stopping_on_signals
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.dispatcher import Dispatcher, Outcome
from crystalframer.orchestration.cluster.failures import Failure
from crystalframer.orchestration.cluster.session import alive_nodes
from crystalframer.orchestration.cluster.worker import SweepTrial
from crystalframer.orchestration.tracking import gate
from crystalframer.runs.trial import TrialProgress

TICK_SECONDS = 1.0
"""How often the driver looks after what is beside the trials."""
NODE_CHECK_SECONDS = 10.0
"""How often the driver makes sure that Ray itself is still there."""


def run_jobs(
    name: str, dispatcher: Dispatcher, *, scratch: Path, stop_file: Path, tick: Callable[[], None], ahead: int
) -> Outcome:
    """Run the trials until all are done, failed for good, or the sweep is stopped (SIGINT, SIGTERM or its budget).

    Args:
        name: the sweep's name.
        dispatcher: hands out what to run and hears what became of it.
        scratch: absolute folder for Ray's own records of the sweep, which are removed.
        stop_file: file by which workers learn, within an epoch, that the sweep should stop; removed again.
        tick: called about once a second; may stop the dispatcher.
        ahead: jobs that may wait for resources at a time; they are what a cluster grows for.
    """
    stop_file.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(ahead)
    events = _Events(dispatcher, stop_file, tick)
    with stopping_on_signals(dispatcher.stop):
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(SweepTrial, credentials=gate.credentials()), _resources_of),
            tune_config=tune.TuneConfig(
                search_alg=_Jobs(dispatcher, events.tick),
                scheduler=_EarlyStops(dispatcher),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_folder,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=0),  # the dispatcher's policies start trials again
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[events],
                stop=_StopWhenAsked(dispatcher.outcome),
                verbose=0,
            ),
        )
        tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)
    stop_file.unlink(missing_ok=True)
    return dispatcher.outcome


def _resources_of(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """Return what a job occupies, as Ray asks for it."""
    job = config["job"]
    bundle = {"CPU": float(job.cpus), **({"GPU": float(job.gpus)} if job.gpus else {})}
    return tune.PlacementGroupFactory([bundle])


class _Unpickled:
    """Pickles as nothing: Tune pickles its parts for a way of resuming that is not ours; a screen cannot be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Jobs(_Unpickled, tune.search.Searcher):
    """Gives Tune the dispatcher's jobs as what a search suggests."""

    def __init__(self, dispatcher: Dispatcher, tick: Callable[[], None]) -> None:
        super().__init__(metric="epoch", mode="max")
        self._dispatcher = dispatcher
        self._tick = tick
        self._count = itertools.count()

    def suggest(self, trial_id: str) -> Any:
        self._tick()
        if self._dispatcher.finished:
            return tune.search.Searcher.FINISHED
        job = self._dispatcher.next_job()
        return None if job is None else {"job": job, "start": next(self._count)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing: resuming is ours."""


class _EarlyStops(_Unpickled, tune.schedulers.FIFOScheduler):
    """Ends a trial where the dispatcher says so."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dispatcher = dispatcher

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        if self._dispatcher.outcome.stopping:
            return str(self.STOP)
        if "failure/reason" in result:
            return str(self.CONTINUE)
        # Tune flattens results for its schedulers
        fields = {key.removeprefix("progress/"): result[key] for key in result if key.startswith("progress/")}
        stops = self._dispatcher.stops_here(_name(trial), TrialProgress(**fields))
        return str(self.STOP if stops else self.CONTINUE)


class _Events(_Unpickled, tune.Callback):
    """Translates Tune's callbacks for the dispatcher."""

    def __init__(self, dispatcher: Dispatcher, stop_file: Path, tick: Callable[[], None]) -> None:
        self._dispatcher = dispatcher
        self._stop_file = stop_file
        self._tick = tick
        self._ticked_at = self._checked_at = time.monotonic()
        self._failed: set[str] = set()
        """Trials of Tune's whose worker has said why it failed; it ends next, which is no failure of its own."""

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._ticked_at >= TICK_SECONDS:
            self._ticked_at = now
            self._tick()
        if self._dispatcher.outcome.stopping and not self._stop_file.exists():
            self._stop_file.touch()
        if now - self._checked_at > NODE_CHECK_SECONDS:
            self._checked_at = now
            if not alive_nodes():  # or Tune would wait for workers for ever
                raise UserError("Ray's own process died, out of memory perhaps; the same command resumes")

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        self.tick()

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self._dispatcher.started(_name(trial))

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "failure" in result:
            self._failed.add(trial.trial_id)
            self._dispatcher.failed(_name(trial), Failure(**result["failure"]))
        elif "stopped" in result:
            self._dispatcher.stopped(_name(trial))
        elif result["progress"]["result"] is not None:
            self._dispatcher.done(_name(trial), TrialProgress(**result["progress"]))

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        _forget_statistics(trial)

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        _forget_statistics(trial)
        if trial.trial_id not in self._failed:
            self._dispatcher.failed(_name(trial), Failure.of_lost_worker(_word_of_end(trial)))


class _StopWhenAsked(_Unpickled, tune.Stopper):
    """Ends the sweep in good order once a signal or the budget asked for it."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._outcome.stopping


def _name(trial: RayTrial) -> str:
    return str(trial.config["job"].name)


def _folder(trial: RayTrial) -> str:
    return f"{trial.config['start']:06d}"


def _forget_statistics(trial: RayTrial) -> None:
    """Drop Tune's averages over a trial's results, 40 KiB that nobody asks for, where thousands of trials add up."""
    trial.metric_analysis.clear()
    trial.metric_n_steps.clear()


def _word_of_end(trial: RayTrial) -> str:
    """Return what Ray says of a worker that ended without a word, from the file that Tune keeps beside its records."""
    path = trial.error_file
    return "" if path is None else Path(path).read_text(encoding="utf-8", errors="replace")
