"""runs/<sweep>/<trial>/: everything that makes a trial resumable, on storage that outlives its process.

    config.json     the settings and the data's fingerprint; a directory made for others is refused
    config.yaml     the settings, as a sweep's `base` would state them
    state.json      where the trial stands, replaced atomically
    metrics.jsonl   one line an epoch, appended
    checkpoint.pt   the trainer's last saved state
    snapshots/epoch_0007.pt ...
                    the model as it was at some epochs, where the sweep asks for them
    predictions/test.csv
                    the test set's targets and predictions
    error.txt       the traceback of the last failure
    done.json       the result; written last, so that its presence means that nothing is left to do
    stopped_early.json
                    the driver's decision that the trial ends before its last epoch
    attempt, lock   which attempt may write

Only one attempt at a trial may write. A new attempt first claims the directory (its id replaces the one in
`attempt`), then waits for the lock, which an older attempt holds until its process ends or until it notices, before
its next write, that the claim is no longer its own. So a worker that outlived its driver, or sits behind a broken
link, never writes over its successor.
"""

import contextlib
import csv
import math
import os
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from crystalframer.atomic_files import is_locked, locked, replace_text, replacing
from crystalframer.config import TrialConfig
from crystalframer.errors import UserError
from crystalframer.resolving import trial_from_dict
from crystalframer.runs.contents import EarlyStop, TrialIdentity, TrialResult, TrialState, TrialStateName
from crystalframer.runs.json_files import DamagedError, opened, parse_json, read_json, sealed
from crystalframer.runs.tracker import StepMetrics

LOCK_SECONDS = 120.0
"""How long a new attempt waits for an older one to notice that it was superseded."""
_TAIL_BYTES = 8192


class SupersededError(RuntimeError):
    """Another attempt at the same trial has claimed its run directory; this one must stop writing."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished training."""

    directory: "RunDirectory"
    config: TrialConfig
    data_fingerprint: str
    result: TrialResult


@dataclass(frozen=True)
class RunDirectory:
    """A trial's directory, as anyone may read it; `attempt` opens it for writing."""

    path: Path
    """Absolute; nothing is created yet."""

    @property
    def checkpoint(self) -> Path:
        """The trainer's last saved state."""
        return self.path / "checkpoint.pt"

    def snapshot(self, epoch: int) -> Path:
        """Return where the model of an epoch is kept, if it is."""
        return self.path / "snapshots" / f"epoch_{epoch:04d}.pt"

    def snapshots(self) -> list[Path]:
        """Return the models kept so far, by epoch."""
        return sorted((self.path / "snapshots").glob("epoch_*.pt"))

    @property
    def metrics(self) -> Path:
        """The epochs, a line each."""
        return self.path / "metrics.jsonl"

    @property
    def config_yaml(self) -> Path:
        """The settings in YAML."""
        return self.path / "config.yaml"

    @property
    def predictions(self) -> Path:
        """The test set's targets and predictions, with the columns id, target, prediction."""
        return self.path / "predictions" / "test.csv"

    def result(self) -> TrialResult | None:
        """Return what the finished trial reported, or None while it is not finished.

        Raises:
            DamagedError: here, in `state` and in `stopped_early`: the file is damaged, or here another trial's.
        """
        path = self.path / "done.json"
        if (found := read_json(path, TrialResult)) is None:
            return None
        if not all(map(math.isfinite, (found["val_mae"], found["test_mae"]))):
            raise DamagedError(f"{path} is damaged; delete this file to have it written anew (an error is no number)")
        if found["trial"] != self.path.name and (identity := self.identity()) is not None:  # else it was moved
            own, theirs = identity["fingerprint"], found["tags"].get("fingerprint")
            if theirs not in (None, own):
                raise DamagedError(
                    f"{path} is that of another trial, {found['trial']!r}: delete this file to have it written anew"
                )
        return found

    def state(self) -> TrialState | None:
        """Return where the trial stands, or None when it was never started."""
        return read_json(self.path / "state.json", TrialState)

    def stopped_early(self) -> EarlyStop | None:
        """Return the decision that ended the trial before its last epoch, or None while there is none."""
        return read_json(self.path / "stopped_early.json", EarlyStop)

    def stop_early(self, decision: EarlyStop) -> None:
        """Write that decision down; the driver does so, before anyone acts on it."""
        replace_text(self.path / "stopped_early.json", sealed(asdict(decision), indent=1))

    def records(self, *, tail: bool = False) -> list[StepMetrics]:
        """Return the epochs written so far, or the last few of them; a last line torn by a kill is left out.

        Raises:
            DamagedError: another line is damaged, or epochs are missing.
        """
        result, path = self.result(), self.metrics  # in this order: a finished trial has written all its epochs
        try:
            with opened(path) as file:
                start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES) if tail else 0
                file.seek(start)
                lines = file.read().split(b"\n")[:-1]  # what follows the last newline is nothing, or torn
        except FileNotFoundError:
            return []
        if start and len(lines) < 2:  # a long line
            return self.records()
        lines = lines[1:] if start else lines
        remedy = f"delete {self.path} to run it again"
        records = [
            parse_json(line, StepMetrics, f"{path}, {'a line near the end' if start else f'line {number}'}", remedy)
            for number, line in enumerate(lines, start=1)
        ]
        first = records[0].step if start else 1
        last = first + len(records) - 1 if result is None else result["final"]["step"]
        if [record.step for record in records] != list(range(first, last + 1)):
            raise DamagedError(f"{path} is damaged; {remedy} (it lacks epochs)")
        return records

    def identity(self) -> TrialIdentity | None:
        """Return which settings and data the directory was made for, or None where it was never started.

        Raises:
            DamagedError: the file is damaged.
        """
        return read_json(self.path / "config.json", TrialIdentity)

    def finished(self) -> FinishedRun | None:
        """Return the directory's training once it is finished, or None where it is not, or was never started.

        Raises:
            UserError: a file is damaged, or its settings are none.
        """
        identity, result = self.identity(), self.result()
        if identity is None or result is None:
            return None
        config = trial_from_dict(identity["settings"], self.path / "config.json")
        return FinishedRun(self, config, identity["dataset_fingerprint"], result)

    def is_in_use(self) -> bool:
        """Return whether an attempt at the trial is under way, on any machine that shares the storage and its locks."""
        return is_locked(self.path / "lock")

    def check_belongs(self, config: TrialConfig, dataset_fingerprint: str) -> None:
        """Refuse a directory that was made with other settings or other data.

        Raises:
            UserError: it was; the directory is left as it is.
        """
        found = self.identity()
        if found is None:
            return
        if (got := found["fingerprint"]) != (expected := config.fingerprint()):
            raise UserError(
                f"{self.path} holds a run of other settings ({got}, expected {expected}: "
                f"{config.differences(found['settings'])}); move it away"
            )
        self.check_data(dataset_fingerprint, "move it away, or keep the results apart with another --runs")

    def check_data(self, dataset_fingerprint: str, remedy: str) -> None:
        """Raise a `UserError`, which ends in the remedy, where the directory was made with other data."""
        found = self.identity()
        if found is not None and (got := found["dataset_fingerprint"]) != dataset_fingerprint:
            raise UserError(
                f"{self.path} was trained on other data (fingerprint {got[:12]}, now {dataset_fingerprint[:12]}); "
                f"{remedy}"
            )

    @contextlib.contextmanager
    def attempt(self, config: TrialConfig, dataset_fingerprint: str) -> Iterator["Attempt"]:
        """Claim the directory, creating it where needed, and hold its lock until the block ends.

        Raises:
            UserError: the directory belongs to other settings or other data.
            SupersededError: another attempt claimed it meanwhile.
            TimeoutError: an older attempt did not let go within `LOCK_SECONDS`.
        """
        self.check_belongs(config, dataset_fingerprint)
        self.path.mkdir(parents=True, exist_ok=True)
        attempt_id = uuid.uuid4().hex
        replace_text(self.path / "attempt", attempt_id)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / "lock", LOCK_SECONDS))
            except BlockingIOError:
                raise TimeoutError(f"an older attempt still holds {self.path} after {LOCK_SECONDS:g} s") from None
            attempt = Attempt(self, attempt_id, config.train.planned_epochs)
            attempt.check_current()
            self.prepare(config, dataset_fingerprint)
            yield attempt

    def prepare(self, config: TrialConfig, dataset_fingerprint: str) -> None:
        """Say in the directory, created where needed, what it is for, unless that is said already."""
        if (self.path / "config.json").exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        settings = config.to_dict()
        identity: TrialIdentity = {
            "fingerprint": config.fingerprint(),
            "dataset_fingerprint": dataset_fingerprint,
            "settings": settings,
        }
        replace_text(self.config_yaml, yaml.safe_dump(settings, sort_keys=False))
        replace_text(self.path / "config.json", sealed(identity, indent=1))


class Attempt:
    """The right to write to a run directory; every write first checks that it still holds."""

    def __init__(self, directory: RunDirectory, attempt_id: str, epochs: int) -> None:
        """Open the directory for the attempt that claimed it."""
        self.directory = directory
        self.id = attempt_id
        self.epochs = epochs  # of the whole trial, 0 while that is not known
        self._memory: tuple[int | None, int | None] = (None, None)

    def note_memory(self, peak_bytes: int, device_bytes: int) -> None:
        """Have the next state say how much memory of its device the trial has held."""
        self._memory = peak_bytes, device_bytes

    def check_current(self) -> None:
        """Raise `SupersededError` when another attempt has claimed the directory."""
        claimed = (self.directory.path / "attempt").read_text(encoding="utf-8")
        if claimed != self.id:
            raise SupersededError(f"{self.directory.path}: attempt {self.id} was superseded by {claimed}")

    def rewind(self, epoch: int) -> list[StepMetrics]:
        """Drop the epochs after a checkpoint, which will be computed again, and return those that stay.

        Raises:
            UserError: epochs that the checkpoint holds are missing from the metrics file.
        """
        self.check_current()
        kept = [record for record in self.directory.records() if record.step <= epoch]
        if [record.step for record in kept] != list(range(1, epoch + 1)):
            path = self.directory.path
            raise UserError(f"{self.directory.metrics} lacks epochs of its checkpoint; delete {path} to run it again")
        self._replace_metrics(kept)
        return kept

    def take_over(self, records: Iterable[StepMetrics]) -> None:
        """Write another trial's epochs, which this one resumes from."""
        self.check_current()
        self._replace_metrics(records)

    def _replace_metrics(self, records: Iterable[StepMetrics]) -> None:
        replace_text(self.directory.metrics, "".join(map(_line, records)))

    def append(self, record: StepMetrics) -> None:
        """Write one epoch's metrics."""
        self.check_current()
        with self.directory.metrics.open("a", encoding="utf-8") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def write_state(self, state: TrialStateName, epoch: int, reason: str = "") -> None:
        """Say where the trial stands."""
        self.check_current()
        content = TrialState(state, self.id, epoch, self.epochs, reason, time.time(), *self._memory)
        replace_text(self.directory.path / "state.json", sealed(asdict(content), indent=1))

    def write_error(self, error: BaseException) -> None:
        """Keep a failure's traceback for whoever looks for its cause."""
        self.check_current()
        replace_text(self.directory.path / "error.txt", "".join(traceback.format_exception(error)))

    def write_predictions(
        self, ids: Sequence[str], targets: Sequence[Any], predictions: Sequence[Any], tasks: Sequence[str] = ()
    ) -> None:
        """Write the test set's targets and predictions, in physical units.

        Of several tasks, targets and predictions are a list per crystal, and the columns carry the tasks' names; an
        absent target is an empty field.
        """
        self.check_current()
        self.directory.predictions.parent.mkdir(exist_ok=True)
        with (
            replacing(self.directory.predictions) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            columns = ("target", "prediction")
            writer.writerow(["id", *([f"{name}_{task}" for name in columns for task in tasks] or columns)])
            for name, target, prediction in zip(ids, targets, predictions, strict=True):
                values = [target, prediction] if not tasks else [*target, *prediction]
                writer.writerow([name, *("" if value != value else value for value in values)])

    def write_result(self, result: TrialResult) -> None:
        """Mark the trial as done."""
        self.check_current()
        replace_text(self.directory.path / "done.json", sealed(result, indent=1))


def _line(record: StepMetrics) -> str:
    return sealed(asdict(record)) + "\n"
