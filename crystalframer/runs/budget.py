"""What a sweep has used up, and what it may: hours and money, kept across the driver's lives.

``runs/<sweep>/driver.json`` is the driver's sign of life and its account: replaced about once every two seconds, it
says for how long the sweep has run, over all its drivers, and for how long its trials have occupied a place.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from crystalframer.errors import UserError
from crystalframer.runs.run_directory import replace_text
from crystalframer.validation import Real

FILE = "driver.json"
WRITE_SECONDS = 2.0
"""How often a driver writes its account, and so what a kill can leave out of it."""
ALIVE_SECONDS = 15.0
"""A driver that has not written for so long is taken for dead."""


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

    def used_up(self, account: "Account") -> str:
        """Return what is used up, in a few words; "" while nothing is."""
        if self.hours is not None and account.seconds >= 3600 * self.hours:
            return f"the budget of {self.hours:g} hours is used up"
        if self.max_cost is not None and account.cost >= self.max_cost:
            return f"the budget of {self.max_cost:g} is used up"
        return ""


@dataclass(frozen=True)
class Account:
    """What a sweep has used so far."""

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

    @property
    def cost(self) -> float:
        """What the trials have cost."""
        return self.trial_seconds / 3600 * self.cost_per_hour

    def is_alive(self, now: float | None = None) -> bool:
        """Return whether the driver that wrote this seems to be running."""
        return not self.ended and (time.time() if now is None else now) - self.updated < ALIVE_SECONDS


def read_account(folder: Path) -> Account | None:
    """Return what the driver of a sweep wrote last, None where none ever did."""
    try:
        return Account(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


@dataclass
class Ledger:
    """Keeps a sweep's account while its driver runs."""

    folder: Path
    budget: Budget
    clock: Callable[[], float] = time.monotonic
    _before: Account = field(init=False)
    _account: Account = field(init=False)

    def __post_init__(self) -> None:
        self._before = read_account(self.folder) or Account()
        self._started = time.time()
        self._counted_at = self._written_at = self._began = self.clock()
        self._trial_seconds = self._before.trial_seconds
        self.write()

    @property
    def account(self) -> Account:
        """The account as written last."""
        return self._account

    def tick(self, running: int) -> str:
        """Count the time since the last call for so many trials, and return what is used up, "" while nothing is."""
        now = self.clock()
        self._trial_seconds += running * (now - self._counted_at)
        self._counted_at = now
        if now - self._written_at >= WRITE_SECONDS:
            self._written_at = now
            self.write()
        return self.budget.used_up(self._account)

    def write(self, *, over_budget: str = "", ended: bool = False) -> None:
        """Write the account."""
        self._account = Account(
            pid=os.getpid(),
            machine=platform.node(),
            started=self._started,
            updated=time.time(),
            seconds=self._before.seconds + self.clock() - self._began,
            trial_seconds=self._trial_seconds,
            cost_per_hour=self.budget.cost_per_hour,
            over_budget=over_budget,
            ended=ended,
        )
        replace_text(self.folder / FILE, json.dumps(asdict(self._account), indent=1))
