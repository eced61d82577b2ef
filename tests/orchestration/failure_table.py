"""What fails how: each failure that is provoked through a real Ray, and what a user sees of it.

The tests hold the program to it (cluster/test_failures_on_ray.py, cluster/test_sweeps_that_cannot_go_on.py), and

    python -m tests.orchestration.failure_table

writes it into docs/search.md, so that the page says what was tried.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from crystalframer.orchestration.cluster.failures import (
    KILLED_FOR_MEMORY,
    LOST_NODE,
    WORKER_DIED,
    AnythingElse,
    FullDisk,
    Hopeless,
    LostNode,
    OutOfMemory,
)

PAGE = Path(__file__).parents[2] / "docs" / "search.md"
BEGIN = "<!-- written by `python -m tests.orchestration.failure_table` -->\n"
END = "<!-- end of what is written -->\n"

AGAIN = "it will resume from its last checkpoint"
MEMORY = "it will resume with one trial less beside it"
DISK = "free space on the disk; it will try again in 10 s"
FULL = "OSError: [Errno 28] No space left on device"

BOUNDS = {
    Hopeless.name: "at once",
    OutOfMemory.name: f"after {OutOfMemory.most} times, or with a whole GPU",
    FullDisk.name: f"after {FullDisk.most} times, waiting up to {FullDisk.longest_wait_seconds:g} s",
    LostNode.name: f"after {LostNode.most} times",
    AnythingElse.name: "after `max_failures` times",
}
"""When a policy gives a trial up, by its name."""


@dataclass(frozen=True)
class Declared:
    """One way to fail."""

    what: str
    """In the words of a user."""
    provoked: str
    """How the test brings it about."""
    says: str
    """The reason in the driver's line of the trial, or its sentence."""
    done: str = ""
    """What that line says is done about it."""
    policy: str = ""
    """The policy that acts, empty where it is no failure of a trial."""
    passes: bool = False
    """Whether it ends by itself, as the test has it: the trial is then done."""
    code: int | None = None
    """The exit code where it ends the sweep."""


TRIALS = {
    "full disk": Declared("disk full", "`ENOSPC`, once", FULL, DISK, FullDisk.name, passes=True),
    "small disk": Declared(
        "disk full", "a run directory on a disk of its own, full once", FULL, DISK, FullDisk.name, passes=True
    ),
    "full disk beneath": Declared(
        "quota used up", "`EDQUOT` beneath another error, once", "RuntimeError: writing failed", DISK, FullDisk.name,
        passes=True,
    ),
    "memory": Declared("out of memory", "`MemoryError`", "MemoryError: 1 TiB", MEMORY, OutOfMemory.name),
    "memory refused": Declared(
        "out of memory", "a tensor of 2⁶⁰ bytes", "DefaultCPUAllocator", MEMORY, OutOfMemory.name
    ),
    "mistake": Declared(
        "a setting that cannot work", "our sentence about it", "the batch is too large: choose a smaller one",
        policy=Hopeless.name,
    ),
    "divergence": Declared(
        "loss is not finite", "our error, which the trainer raises", "TrainingDivergedError: training diverged",
        policy=Hopeless.name,
    ),
    "no file handles": Declared(
        "no open file left", "`RLIMIT_NOFILE` used up", "OSError: [Errno 24] Too many open files", AGAIN,
        AnythingElse.name,
    ),
    "superseded": Declared(
        "another attempt took the trial over", "our error", "SupersededError: another attempt took over", AGAIN,
        AnythingElse.name,
    ),
    "lost process": Declared(
        "one of a training's processes is gone", "our error", "LostProcessError: another process of the training is",
        AGAIN, AnythingElse.name,
    ),
    "stranger": Declared(
        "an error nobody foresaw", "one that cannot be pickled", "StrangersError: this and that", AGAIN,
        AnythingElse.name,
    ),
    "killed": Declared("a worker process dies", "`kill -9`", WORKER_DIED, AGAIN, AnythingElse.name),
    "lost tracker": Declared(
        "the MLflow server of this machine dies", "`kill -9`", "", "it is started again at the same address",
        passes=True,
    ),
}  # fmt: skip
"""Trials of one sweep, by the name of what failing_training.py does."""

NODES = {
    "node": Declared("a machine is lost (spot)", "a node of the cluster ends", LOST_NODE, AGAIN, LostNode.name),
    "worker": Declared("a worker process dies", "`kill -9`, on a cluster", WORKER_DIED, AGAIN, AnythingElse.name),
    "memory": Declared(
        "a machine is out of memory", "Ray's memory monitor", KILLED_FOR_MEMORY, MEMORY, OutOfMemory.name
    ),
}
"""What Ray says of a worker that ended."""

SWEEPS = {
    "driver's disk": Declared(
        "the driver's own folder is full", "a disk of 4 MiB, filled while a trial runs",
        "cannot be written to (No space left on device); free space, then run the same command again", code=2,
    ),
    "no GPU": Declared(
        "a GPU where there is none", "`gpus_per_trial: 1` on such a machine",
        "a trial asks for 1 GPUs but no machine here has more than 0: ", code=2,
    ),
    "too few CPUs": Declared(
        "more cores than a machine has", "`cpus_per_trial: 3` on nodes of two",
        "a trial asks for 3 CPUs but no machine here has more than 2: ", code=2,
    ),
    "waiting": Declared(
        "a GPU on a cluster that grows by itself, and has none yet", "`gpus_per_trial: 1`, then Ctrl-C",
        "waiting for 1 GPU: no machine of the cluster has as much for one trial",
        "it waits, and `crystalframer status` says so", code=130,
    ),
    "gone": Declared(
        "a cluster that is gone", "`RAY_ADDRESS` where nothing listens", "no Ray cluster answers at RAY_ADDRESS ",
        code=2,
    ),
    "client": Declared(
        "an address of Ray Client", "`RAY_ADDRESS=ray://…`",
        "RAY_ADDRESS is 'ray://127.0.0.1:10001', Ray Client's address, which runs no sweep: submit the command",
        code=2,
    ),
    "other version": Declared(
        "a cluster with another Ray than here", "a head that says that it is Ray 2.9.3", "is Ray 2.9.3 on Python ",
        code=2,
    ),
    "no processes": Declared(
        "the user may start no more processes", "`RLIMIT_NPROC` used up", " processes and threads, a sweep needs ",
        code=2,
    ),
}  # fmt: skip
"""What ends a sweep, or keeps it from starting."""


def ending(failure: Declared) -> str:
    """Return how the trial or the sweep ends."""
    if failure.code is not None:
        return f"exit code {failure.code}"
    if failure.passes:
        return "the trial is done"
    return f"given up {BOUNDS[failure.policy]}: exit code 1"


def table() -> str:
    """Return the table of all failures in Markdown."""
    rows = [("what", "provoked by", "what you read", "what is done", "how it ends"), ("---",) * 5]
    failures = [*TRIALS.values(), *NODES.values(), *SWEEPS.values()]
    order = ["", *BOUNDS]
    for failure in sorted(failures, key=lambda one: (one.code is not None, -order.index(one.policy))):
        says = f"`{failure.says.strip()}`" if failure.says else "–"
        rows.append((failure.what, failure.provoked, says, failure.done or "–", ending(failure)))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def written(page: str) -> str:
    """Return a page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
