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
import fcntl
import json
import os
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import yaml

from crystalframer.config import TrialConfig
from crystalframer.errors import UserError
from crystalframer.runs.tracker import StepMetrics

TrialStateName = Literal["waiting", "running", "stopped", "failed", "done"]
LOCK_SECONDS = 120.0
"""How long a new attempt waits for an older one to notice that it was superseded."""


class SupersededError(RuntimeError):
    """Another attempt at the same trial has claimed its run directory; this one must stop writing."""


@dataclass(frozen=True)
class TrialState:
    """Where a trial stands."""

    state: TrialStateName
    attempt: str
    """Id of the attempt that wrote this."""
    epoch: int
    """Epochs that the checkpoint holds."""
    epochs: int
    """Epochs of the whole trial."""
    reason: str = ""
    """Why it failed, in one line."""
    updated: float = 0.0
    """Seconds since 1970, when this was written."""
    peak_bytes: int | None = None
    """Most memory of the device that this attempt has held, None where there is no such device."""
    device_bytes: int | None = None
    """Memory of the device."""


@dataclass(frozen=True)
class EarlyStop:
    """A search's decision that a trial ends here; the trial's checkpoint holds this epoch."""

    epoch: int
    val_mae: float
    reason: str


class RunDirectory:
    """A trial's directory, as anyone may read it; `attempt` opens it for writing."""

    def __init__(self, path: Path) -> None:
        """Name the directory (absolute); nothing is created yet."""
        self.path = path

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
    def config_yaml(self) -> Path:
        """The settings in YAML."""
        return self.path / "config.yaml"

    @property
    def predictions(self) -> Path:
        """The test set's targets and predictions, with the columns id, target, prediction."""
        return self.path / "predictions" / "test.csv"

    def result(self) -> dict[str, Any] | None:
        """Return what the finished trial reported, or None while it is not finished."""
        return _read_json(self.path / "done.json")

    def state(self) -> TrialState | None:
        """Return where the trial stands, or None when it was never started."""
        content = _read_json(self.path / "state.json")
        return None if content is None else TrialState(**content)

    def stopped_early(self) -> EarlyStop | None:
        """Return the decision that ended the trial before its last epoch, or None while there is none."""
        content = _read_json(self.path / "stopped_early.json")
        return None if content is None else EarlyStop(**content)

    def stop_early(self, decision: EarlyStop) -> None:
        """Write that decision down; the driver does so, before anyone acts on it."""
        replace_text(self.path / "stopped_early.json", json.dumps(asdict(decision), indent=1))

    def records(self) -> list[StepMetrics]:
        """Return the epochs written so far; a last line torn by a kill is left out.

        Raises:
            UserError: another line is damaged.
        """
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
        records = []
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is nothing, or torn
            try:
                records.append(StepMetrics(**json.loads(line)))
            except (json.JSONDecodeError, TypeError) as error:
                raise UserError(f"{path}, line {number} is damaged; delete {self.path} to run it again") from error
        return records

    def check_belongs(self, config: TrialConfig, dataset_fingerprint: str) -> None:
        """Refuse a directory that was made with other settings or other data.

        Raises:
            UserError: it was; the directory is left as it is.
        """
        found = _read_json(self.path / "config.json")
        if found is None:
            return
        if (got := found["fingerprint"]) != (expected := config.fingerprint()):
            raise UserError(f"{self.path} holds a run of other settings ({got}, expected {expected}); move it away")
        if (got := found["dataset_fingerprint"]) != dataset_fingerprint:
            raise UserError(
                f"{self.path} was trained on other data (fingerprint {got[:12]}, now {dataset_fingerprint[:12]}); "
                "move it away, or keep the results apart with another --runs"
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
        with (self.path / "lock").open("w") as lock:
            _wait_for_lock(lock, self.path)
            attempt = Attempt(self, attempt_id, config.train.epochs)
            attempt.check_current()
            if not (self.path / "config.json").exists():
                self._write_identity(config, dataset_fingerprint)
            yield attempt

    def _write_identity(self, config: TrialConfig, dataset_fingerprint: str) -> None:
        settings = config.to_dict()
        identity = {"fingerprint": config.fingerprint(), "dataset_fingerprint": dataset_fingerprint}
        replace_text(self.config_yaml, yaml.safe_dump(settings, sort_keys=False))
        replace_text(self.path / "config.json", json.dumps({**identity, "settings": settings}, indent=1))


class Attempt:
    """The right to write to a run directory; every write first checks that it still holds."""

    def __init__(self, directory: RunDirectory, attempt_id: str, epochs: int) -> None:
        """Open the directory for the attempt that claimed it."""
        self.directory = directory
        self.id = attempt_id
        self._epochs = epochs
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
            raise UserError(f"{path}/metrics.jsonl lacks epochs of its checkpoint; delete {path} to run it again")
        replace_text(self.directory.path / "metrics.jsonl", "".join(_line(record) for record in kept))
        return kept

    def take_over(self, records: Iterable[StepMetrics]) -> None:
        """Write another trial's epochs, which this one goes on from."""
        self.check_current()
        replace_text(self.directory.path / "metrics.jsonl", "".join(_line(record) for record in records))

    def append(self, record: StepMetrics) -> None:
        """Write one epoch's metrics."""
        self.check_current()
        with (self.directory.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def write_state(self, state: TrialStateName, epoch: int, reason: str = "") -> None:
        """Say where the trial stands."""
        self.check_current()
        content = TrialState(state, self.id, epoch, self._epochs, reason, time.time(), *self._memory)
        replace_text(self.directory.path / "state.json", json.dumps(asdict(content), indent=1))

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
        temporary = _temporary(self.directory.predictions)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            columns = ("target", "prediction")
            writer.writerow(["id", *([f"{name}_{task}" for name in columns for task in tasks] or columns)])
            for name, target, prediction in zip(ids, targets, predictions, strict=True):
                values = [target, prediction] if not tasks else [*target, *prediction]
                writer.writerow([name, *("" if value != value else value for value in values)])
        temporary.replace(self.directory.predictions)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Mark the trial as done."""
        self.check_current()
        replace_text(self.directory.path / "done.json", json.dumps(result, indent=1))


def replace_text(path: Path, text: str) -> None:
    """Replace a file's content so that a reader, or a kill, sees either the old or the new one."""
    temporary = _temporary(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _line(record: StepMetrics) -> str:
    return json.dumps(asdict(record)) + "\n"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _wait_for_lock(lock: IO[str], path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"an older attempt still holds {path} after {LOCK_SECONDS:g} s") from None
            time.sleep(0.1)
        else:
            return
