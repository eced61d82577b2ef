"""One training in this process, from its start or its checkpoint to its result, with a line an epoch."""

from pathlib import Path

from crystalframer.command_line import EXIT_INTERRUPTED
from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task_once
from crystalframer.runs.console import on_console
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.single import SingleRun, check_single, train_single
from crystalframer.training.launch import launch


def train_here(
    config: TrialConfig, data: TaskData, folder: Path, *, device: str = "cpu", threads: int | None = None
) -> None:
    """Train or resume in a folder; a finished training is left as it is.

    Raises:
        UserError: as `check_single` does.
        TrainingDivergedError: a loss or prediction is not a finite number.
        SupersededError: another training took the folder over.
        KeyboardInterrupt: it was stopped, and saved; the same call resumes.
    """
    directory = RunDirectory(folder.absolute())
    check_single(config, directory, data)
    if directory.result() is not None:
        return
    load_task_once.cache_clear()  # a data set of this name may have been prepared anew since
    run = SingleRun(settings=config.to_dict(), directory=directory.path, threads=threads)
    with on_console() as show:
        code = launch(train_single, (run,), 1, device, show)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt


def default_name(trial: TrialConfig) -> str:
    """Return the name of a training's folder where none is given."""
    data, train = trial.data, trial.train
    task = data.task.replace(",", "+")
    return f"{data.dataset}-{task}-{trial.model.frame}-seed{train.seed}-{trial.fingerprint()}"
