"""What a sweep may use, hours and money, and what its driver says of it in ``runs/<sweep>/driver.json``.

The file is replaced about every two seconds while the driver runs. It adds up, over all drivers of the sweep, how long
they ran and how long trials occupied a place; and it says what only the driver knows: which trials run, and which it
gave up.
"""

import os
import platform
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, with_config

from crystalframer.atomic_files import is_locked, replace_text
from crystalframer.errors import UserError
from crystalframer.runs.json_files import read_json, sealed
from crystalframer.validation import Real

FILE = "driver.json"
LOCK = ".driver.lock"
"""The file in a sweep's folder that its driver holds locked; it contains the driver's process id."""
WRITE_SECONDS = 2.0
"""How often a driver writes, and so what a kill can leave out."""
ALIVE_SECONDS = 15.0
"""A driver that wrote within this time is taken to run, even where its lock cannot be seen."""


@dataclass(frozen=True)
class Budget:
    """What a sweep may use; None for no bound."""

    hours: Annotated[Real, Field(ge=0.0, le=1e6)] | None = None
    """Hours by the clock, summed over the sweep's drivers."""
    cost_per_hour: Annotated[Real, Field(ge=0.0)] = 0.0
    """Price of what one trial occupies, for an hour."""
    max_cost: Annotated[Real, Field(ge=0.0)] | None = None
    """In the same currency."""

    def __post_init__(self) -> None:
        if self.max_cost is not None and not self.cost_per_hour:
            raise UserError("budget.max_cost: needs budget.cost_per_hour, what one trial costs for an hour")

    def used_up(self, driver: "DriverState") -> str:
        """Return what is used up, in a few words; "" while nothing is."""
        if self.hours is not None and driver.seconds >= 3600 * self.hours:
            return f"the budget of {self.hours:g} hours is used up"
        if self.max_cost is not None and driver.cost >= self.max_cost:
            return f"the budget of {self.max_cost:g} is used up"
        return ""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class DriverState:
    """The content of ``driver.json``."""

    pid: int = 0
    machine: str = ""
    started: float = 0.0
    """When this driver started, in seconds since 1970."""
    updated: float = 0.0
    """When this was written."""
    seconds: float = 0.0
    """Time that drivers of the sweep have run."""
    trial_seconds: float = 0.0
    """The same, counted once for each trial that ran at the time."""
    cost_per_hour: float = 0.0
    over_budget: str = ""
    """What was used up, if that ended the sweep."""
    ended: bool = False
    """Whether the driver came to its end."""
    running: tuple[str, ...] | None = None
    """Names of the trials that run; None in files written before this was kept."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Why trials were given up, by name."""
    waiting: str = ""
    """What trials wait for that no machine has, in a few words."""

    @property
    def cost(self) -> float:
        """What the trials have cost."""
        return self.trial_seconds / 3600 * self.cost_per_hour

    def is_alive(self, now: float | None = None) -> bool:
        """Return whether the driver that wrote this seems to run: lately, also by a clock that went back since."""
        return not self.ended and abs((time.time() if now is None else now) - self.updated) < ALIVE_SECONDS

    def silence(self) -> float:
        """Return for how many seconds nothing was written."""
        return max(0.0, time.time() - self.updated)


def read_driver(folder: Path) -> tuple[DriverState, bool]:
    """Return what the driver of a sweep wrote last, and whether it runs.

    It runs if it holds its lock: it may be busy, e.g. with the start of Ray, and write nothing. Where locks of other
    machines cannot be seen, it runs if it wrote lately.

    Raises:
        DamagedError: the file is damaged.
    """
    state = read_json(folder / FILE, DriverState) or DriverState()
    if not is_locked(folder / LOCK):
        return state, state.is_alive()
    holder = (folder / LOCK).read_text(encoding="utf-8", errors="replace")
    if holder.isdigit() and int(holder) != state.pid:  # a new driver that has written nothing yet
        state = replace(state, pid=int(holder), machine="", running=(), failed={}, over_budget="", waiting="")
    return state, True


class Heartbeat:
    """Keeps ``driver.json`` while a sweep's driver runs."""

    def __init__(self, folder: Path, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        """Go on from what earlier drivers used, and write.

        Raises:
            DamagedError: what they wrote is damaged.
        """
        self._path = folder / FILE
        self._budget = budget
        self._clock = clock
        self._counted_at = self._written_at = clock()
        before = read_json(self._path, DriverState) or DriverState()
        self.state = DriverState(
            pid=os.getpid(),
            machine=platform.node(),
            started=time.time(),
            seconds=before.seconds,
            trial_seconds=before.trial_seconds,
            cost_per_hour=budget.cost_per_hour,
            running=(),
        )
        self._write()

    def tick(self, running: Collection[str], failed: Mapping[str, str] | None = None, waiting: str = "") -> str:
        """Count the time since the last call for the trials that run, and return what is used up, "" for nothing."""
        now, before = self._clock(), self.state
        passed, self._counted_at = now - self._counted_at, now
        self.state = replace(
            self.state,
            seconds=self.state.seconds + passed,
            trial_seconds=self.state.trial_seconds + passed * len(running),
            running=tuple(running),
            failed=dict(failed or {}),
            waiting=waiting,
        )
        now_said, said = ((state.running, state.failed, state.waiting) for state in (self.state, before))
        if now_said != said or now - self._written_at >= WRITE_SECONDS:
            self._write()
        return self._budget.used_up(self.state)

    def end(self, failed: Mapping[str, str], over_budget: str) -> None:
        """Write that the driver came to its end."""
        self.tick((), failed)
        self.state = replace(self.state, over_budget=over_budget, ended=True)
        self._write()

    def _write(self) -> None:
        self._written_at = self._clock()
        self.state = replace(self.state, updated=time.time())
        replace_text(self._path, sealed(asdict(self.state), indent=1))
