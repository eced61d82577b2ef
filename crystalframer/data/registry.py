"""Data sets by name: the embedded `sample`, the prepared stores of `jarvis`, `mp` and `oqmd`, and users' own ones."""

import functools

from crystalframer.config import DataConfig
from crystalframer.data import sample, store
from crystalframer.data.dataset import CrystalDataset, TaskData, select_task
from crystalframer.environment import data_folder
from crystalframer.errors import UserError, near_matches
from crystalframer.published import PUBLISHED


def own_datasets() -> list[str]:
    """Return the names of the prepared data sets that are not published ones, sorted."""
    folder = data_folder()
    if not folder.is_dir():
        return []
    found = [path.name for path in folder.iterdir() if store.is_store(path)]
    return sorted(name for name in found if name not in PUBLISHED and not name.startswith("."))


def tasks_of(name: str) -> dict[str, str]:
    """Return the tasks of a data set and their units; those of a user's own come from its manifest.

    Raises:
        UserError: the data set is unknown; near matches are listed.
    """
    check_dataset(name)
    if name in PUBLISHED:
        return PUBLISHED[name].units
    units: dict[str, str] = store.read_manifest(data_folder() / name)["units"]
    return units


def subset_of(name: str) -> dict[str, str]:
    """Return by task which published data set and task, such as ``jarvis:bandgap_mbj``, a data set is a part of.

    Empty where that was not stated in the preparation, or the data set is not prepared here.
    """
    if name in PUBLISHED or not store.is_store(data_folder() / name):
        return {}
    found: dict[str, str] = store.read_manifest(data_folder() / name).get("subset_of", {})
    return found


def check_dataset(name: str) -> None:
    """Check the name of a data set.

    Raises:
        UserError: it is neither a published one nor prepared; near matches are listed.
    """
    if name not in PUBLISHED and name not in own_datasets():
        raise UserError(
            f"unknown data set {name!r}{near_matches(name, [*PUBLISHED, *own_datasets()])}; your own crystals "
            f"become one with `crystalframer prepare PATH --name {name}`"
        )


def check_names(dataset: str, task: str) -> None:
    """Check the names of a data set and of one of its tasks, or several joined by commas, without reading a crystal.

    Raises:
        UserError: one of them is unknown; near matches are listed.
    """
    tasks = tasks_of(dataset)
    for name in task.split(","):
        if name not in tasks:
            raise UserError(f"data set {dataset!r} has no task {name!r}{near_matches(name, tasks)}")


def load_dataset(name: str) -> CrystalDataset:
    """Return a data set: `sample` from the package, the others memory-mapped from their prepared store.

    Raises:
        UserError: the name is unknown (near matches are listed), the data set is not prepared (the message says where
            it was expected and the command that prepares it), or its files are damaged.
    """
    check_dataset(name)
    if name == "sample":
        return sample.load_sample()
    directory = data_folder() / name
    if not store.is_store(directory):
        raise UserError(
            f"data set {name!r} is not prepared: expected {directory}; prepare it with "
            f"`crystalframer prepare {name}` (set CRYSTALFRAMER_DATA if it is elsewhere)"
        )
    return store.read_store(directory)


def load_task(config: DataConfig) -> TaskData:
    """Return the rows and targets that a trial's `DataConfig` names.

    Raises:
        UserError: an unknown name, a data set that is not prepared or lacks the task, a split without targets or
            smaller than asked for.
    """
    check_names(config.dataset, config.task)
    dataset = load_dataset(config.dataset)
    for task in config.task.split(","):
        if task not in dataset.tasks:
            raise UserError(
                f"data set {config.dataset!r} was prepared without task {task!r} (it holds: "
                f"{', '.join(dataset.tasks)}): prepare it again from a source that has this property"
            )
    return select_task(dataset, config)


@functools.lru_cache(maxsize=2)
def load_task_once(config: DataConfig) -> TaskData:
    """Return what `load_task` does, read once in a process that asks for it again and again."""
    return load_task(config)
