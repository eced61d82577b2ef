"""Which published split a user's own data set is a part of, as the user states it, checked as far as it can be."""

from collections.abc import Mapping, Sequence

from crystalframer.data.dataset import Task
from crystalframer.errors import UserError, near_matches
from crystalframer.published import PUBLISHED

PARTS = tuple(f"{name}:{task}" for name, dataset in PUBLISHED.items() if name != "sample" for task in dataset.tasks)
"""What a data set can be a part of."""


def find_subsets(stated: Sequence[str], tasks: Mapping[str, Task]) -> dict[str, str]:
    """Return by task which published data set and task it is a part of.

    Args:
        stated: ``jarvis:bandgap_mbj``, for the task of that name or the only one, or ``TASK=jarvis:bandgap_mbj``.
        tasks: the data set's.

    Raises:
        UserError: no such published task, no such task here, another unit, or more crystals in a split than published.
    """
    found: dict[str, str] = {}
    for text in stated:
        own, _, published = text.rpartition("=")
        if published not in PARTS:
            raise UserError(
                f"--subset-of {text}: {published!r} is no published task{near_matches(published, PARTS)}; expected "
                "DATASET:TASK, such as jarvis:bandgap_mbj"
            )
        name = own or published.partition(":")[2]
        if not own and name not in tasks and len(tasks) == 1:
            (name,) = tasks
        if name not in tasks:
            raise UserError(
                f"--subset-of {text}: the data have no task {name!r}{near_matches(name, tasks)}; name the one that is "
                f"meant: --subset-of TASK={published}"
            )
        _check(text, tasks[name], published)
        found[name] = published
    return found


def _check(text: str, task: Task, published: str) -> None:
    dataset, _, name = published.partition(":")
    known = PUBLISHED[dataset].tasks[name]
    if task.unit != known.unit:
        raise UserError(
            f"--subset-of {text}: {task.name} is in {task.unit} here and in {known.unit} there; give the unit with "
            f"--unit {task.name}={known.unit}, and targets in it"
        )
    for (part, size), count in zip(task.sizes.items(), known.counts, strict=True):
        if size > count:
            raise UserError(
                f"--subset-of {text}: {size:,} crystals in the {part} split, the published one has {count:,}; give the "
                "published split as a column `split`, or with --split FILE.csv"
            )
