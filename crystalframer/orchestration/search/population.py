"""Population-based training: members train side by side, and now and then the worst take over from the best.

Every stretch of a member between two exchanges is a trial with a run directory of its own, called
``g<generation>-m<member>-...``: it starts from the checkpoint of the stretch it continues and ends with a decision on
disk, and never changes again. What each stretch continues, and with which settings, follows from the errors of the
generation before and from the search's seed alone. So there is no state to lose: a driver that starts anew computes
the same decisions from the same directories.

A generation waits for the last of its members, as the exchange is between all of them.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crystalframer.data.registry import load_task_once
from crystalframer.orchestration.cluster.jobs import TrialJob
from crystalframer.orchestration.search.search_spec import Range, Search
from crystalframer.orchestration.search.study import Study
from crystalframer.orchestration.sweeps.driver import Driver
from crystalframer.runs.run_directory import EarlyStop
from crystalframer.runs.trial import Trial, TrialProgress

Values = Mapping[str, float]


@dataclass(frozen=True)
class Stretch:
    """What a member does between two exchanges."""

    generation: int
    member: int
    values: Values
    """Of the searched settings."""
    parent: int | None
    """Member whose last stretch this one continues, None for the first generation."""


def first_generation(spec: Search) -> list[Stretch]:
    """Return the members' first stretches, with settings drawn from the space."""
    stretches = []
    for member in range(spec.population.members):
        random = np.random.default_rng([spec.seed, 0, member])
        values = {key: _draw(where, random) for key, where in spec.space.items()}
        stretches.append(Stretch(0, member, values, None))
    return stretches


def next_generation(spec: Search, stretches: Sequence[Stretch], errors: Mapping[int, float]) -> list[Stretch]:
    """Return what follows a generation.

    Args:
        spec: the search.
        stretches: those of the generation that ended.
        errors: validation errors by member; a member without one failed.

    Returns:
        A stretch for each member: the best and the middle go on as they are, the worst, and those that failed, take
        over weights and settings of one of the best and raise or lower each setting.
    """
    ranked = sorted(stretches, key=lambda one: (errors.get(one.member, math.inf), one.member))
    alive = [one for one in ranked if math.isfinite(errors.get(one.member, math.inf))]
    if not alive:
        return []
    number = max(1, int(spec.population.replaced * len(stretches)))
    best, kept = alive[:number], {one.member for one in alive[: len(stretches) - number]}
    following = []
    for one in stretches:
        if one.member in kept:
            following.append(replace(one, generation=one.generation + 1, parent=one.member))
            continue
        random = np.random.default_rng([spec.seed, one.generation + 1, one.member])
        source = best[int(random.integers(len(best)))]
        values = {key: _perturb(value, spec, key, random) for key, value in source.values.items()}
        following.append(Stretch(one.generation + 1, one.member, values, source.member))
    return following


def _draw(where: Range, random: np.random.Generator) -> float:
    if where.kind == "loguniform":
        return float(math.exp(random.uniform(math.log(where.low), math.log(where.high))))
    return float(random.uniform(where.low, where.high))


def _perturb(value: float, spec: Search, key: str, random: np.random.Generator) -> float:
    where, factor = spec.space[key], spec.population.factor
    changed = value * factor if random.random() < 0.5 else value / factor
    return float(min(where.high, max(where.low, changed)))


class PopulationSource:
    """Population-based training as a source of jobs."""

    def __init__(self, spec: Search, study: Study, driver: Driver) -> None:
        """Train the population; `resume` comes first."""
        self._spec = spec
        self._study = study
        self._driver = driver
        self._epochs = spec.default.train.epochs
        self._last = math.ceil(self._epochs / spec.population.interval) - 1
        self._stretches: list[Stretch] = []
        self._names: dict[str, Stretch] = {}
        self._lineage: dict[tuple[int, int], str] = {}
        """Names by generation and member."""
        self._waiting: deque[str] = deque()
        self._open: set[str] = set()
        """Names of the generation's stretches that have not ended."""
        self._errors: dict[int, float] = {}

    def resume(self) -> None:
        """Compute the generations that have ended from their directories, and take up the one that has not."""
        self._begin(first_generation(self._spec))
        self._go_on()

    @property
    def exhausted(self) -> bool:
        """See `JobSource.exhausted`."""
        return not self._open

    def next_job(self) -> TrialJob | None:
        """See `JobSource.next_job`; none while the generation waits for its last members."""
        if not self._waiting:
            return None
        name = self._waiting.popleft()
        stretch = self._names[name]
        ends = () if stretch.generation == self._last else (self._end_of(stretch.generation),)
        job = self._driver.job(self._driver.trials[name], ends)
        if stretch.parent is None:
            return job
        parent = self._lineage[stretch.generation - 1, stretch.parent]
        return replace(job, inherits=str(self._driver.directory(parent).path))

    def stops_here(self, name: str, progress: TrialProgress) -> bool:
        """See `JobSource.stops_here`: each stretch but the last ends with its generation."""
        stretch = self._names[name]
        if stretch.generation == self._last or progress.epoch < self._end_of(stretch.generation):
            return False
        reason = f"generation {stretch.generation} ended"
        self._driver.directory(name).stop_early(EarlyStop(progress.epoch, progress.val_mae, reason))
        self._ended(name, progress.val_mae)
        return True

    def finished(self, name: str, progress: TrialProgress) -> None:
        """See `JobSource.finished`."""
        self._ended(name, progress.val_mae)

    def failed(self, name: str, reason: str) -> None:
        """See `JobSource.failed`: the member takes over from another one; that is final, as the others go on."""
        directory = self._driver.directory(name)
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.stop_early(EarlyStop(0, math.inf, f"failed: {reason}"))
        self._ended(name, math.inf)

    def _begin(self, stretches: list[Stretch]) -> None:
        """Start a generation: settle what its directories hold, queue the rest."""
        self._stretches, self._errors = stretches, {}
        self._open, self._waiting = set(), deque()
        for stretch in stretches:
            config = self._spec.config(stretch.values)
            name = (
                f"g{stretch.generation:03d}-m{stretch.member:02d}-{config.data.task.replace(',', '+')}-"
                f"{config.model.frame}-{config.fingerprint()}"
            )
            trial = Trial(name, config)
            self._names[name] = stretch
            self._lineage[stretch.generation, stretch.member] = name
            self._driver.add(trial, load_task_once(config.data))
            self._open.add(name)
            directory = self._driver.directory(name)
            early, result = directory.stopped_early(), directory.result()
            if early is not None:
                self._settle(name, early.val_mae)
            elif result is not None:
                self._settle(name, result["val_mae"])
            else:
                self._waiting.append(name)

    def _ended(self, name: str, error: float) -> None:
        self._settle(name, error)
        self._go_on()

    def _settle(self, name: str, error: float) -> None:
        self._open.discard(name)
        stretch = self._names[name]
        self._errors[stretch.member] = error
        if math.isfinite(error):
            remarks: dict[str, Any] = {"generation": stretch.generation, "member": stretch.member}
            self._study.add_finished(name, stretch.values, error, remarks)

    def _go_on(self) -> None:
        while not self._open and self._stretches and self._stretches[0].generation < self._last:
            self._begin(next_generation(self._spec, self._stretches, self._errors))

    def _end_of(self, generation: int) -> int:
        return min(self._epochs, (generation + 1) * self._spec.population.interval)
