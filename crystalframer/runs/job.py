"""What a process needs to run a trial, in plain values: it is pickled on its way, to another machine perhaps."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task_once
from crystalframer.resolving import trial_from_dict
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.tracker import Tracker
from crystalframer.runs.trainable import TrainerFactory
from crystalframer.runs.trial import CHECKPOINT_SECONDS, Trial, TrialProgress, run_trial

if TYPE_CHECKING:  # it imports torch, which the driver does without
    from crystalframer.training.processes import Processes


@dataclass(frozen=True)
class TrialJob:
    """Everything that a process needs to run a trial; it runs in its own or another program, alone or with others."""

    name: str
    settings: dict[str, Any]
    """As `TrialConfig.to_dict` writes them."""
    directory: str
    """Absolute path of the run directory."""
    tracking_uri: str = ""
    experiment_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    """What the sweep says of the run."""
    cpus: int | None = None
    """Threads of each process, None for torch's own choice."""
    device: str = "cpu"
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    trainer: str = ""
    """Where the trainer's class is, as ``module:name``."""
    snapshots: int = 0
    """How many models to keep from evenly spaced epochs."""
    marker: str = ""
    """A file that the driver made beside the run directories; a worker that does not see it is on the wrong storage."""
    gpus: float = 0.0
    """Share of a GPU, or a number of them."""
    decide_at: tuple[int, ...] = ()
    """Epochs that are reported at once, because someone may decide there to end the trial."""
    inherits: str = ""
    """Run directory of the trial whose checkpoint this one resumes from, under its own settings."""
    stop_file: str = ""
    """A file that is there while the sweep should stop."""

    @property
    def trial(self) -> Trial:
        """Name and settings."""
        return Trial(self.name, trial_from_dict(self.settings))

    @property
    def run_directory(self) -> RunDirectory:
        """Where it runs."""
        return RunDirectory(Path(self.directory))

    @property
    def data(self) -> TaskData:
        """The crystals and targets that its settings name, read once per process."""
        return load_task_once(self.trial.config.data)

    def run(
        self,
        tracker: Tracker,
        make_trainer: TrainerFactory,
        *,
        stop_requested: Callable[[], bool] = lambda: False,
        processes: "Processes | None" = None,
    ) -> Generator[TrialProgress, None, None]:
        """Run the trial; see `run_trial`."""
        return run_trial(
            self.trial,
            self.data,
            self.run_directory,
            tracker,
            make_trainer,
            tags=self.tags,
            device=self.device,
            checkpoint_seconds=self.checkpoint_seconds,
            snapshots=self.snapshots,
            decide_at=self.decide_at,
            parent=RunDirectory(Path(self.inherits)) if self.inherits else None,
            stop_requested=stop_requested,
            processes=processes,
        )
