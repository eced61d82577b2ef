"""Population-based training: members train side by side, and now and then the worst take over from the best.

Every segment of a member between two exchanges is a trial with a run directory of its own, called
``g<generation>-m<member>-...``: it starts from the checkpoint of the segment it continues and ends with a decision on
disk, and never changes again. What each segment continues, and with which settings, follows from the errors of the
generation before and from the search's seed alone. So there is no state to lose: a driver that starts anew computes
the same decisions from the same directories.

A generation waits for the last of its members, as the exchange is between all of them.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crystalframer.data.registry import load_task_once
from crystalframer.orchestration.search.recorded import SearchTrial, other_search, subject
from crystalframer.orchestration.search.search_spec import Range, Search
from crystalframer.orchestration.sweeps.driver import Driver
from crystalframer.runs.contents import EarlyStop
from crystalframer.runs.trial import Trial, TrialJob, TrialProgress

Values = Mapping[str, float]


@dataclass(frozen=True)
class Segment:
    """What a member does between two exchanges."""

    generation: int
    member: int
    values: Values
    """Of the searched settings."""
    parent: int | None
    """Member whose last segment this one continues, None for the first generation."""


def first_generation(spec: Search) -> list[Segment]:
    """Return the members' first segments, with settings drawn from the space."""
    segments = []
    for member in range(spec.population.members):
        random = np.random.default_rng([spec.seed, 0, member])
        values = {key: _draw(where, random) for key, where in spec.space.items()}
        segments.append(Segment(0, member, values, None))
    return segments


def next_generation(spec: Search, segments: Sequence[Segment], errors: Mapping[int, float]) -> list[Segment]:
    """Return what follows a generation.

    Args:
        spec: the search.
        segments: those of the generation that ended.
        errors: validation errors by member; a member without one failed.

    Returns:
        A segment for each member: the best and the middle go on as they are, the worst, and those that failed, take
        over weights and settings of one of the best and raise or lower each setting.
    """
    ranked = sorted(segments, key=lambda one: (errors.get(one.member, math.inf), one.member))
    alive = [one for one in ranked if math.isfinite(errors.get(one.member, math.inf))]
    if not alive:
        return []
    number = max(1, int(spec.population.replaced * len(segments)))
    best, kept = alive[:number], {one.member for one in alive[: len(segments) - number]}
    following = []
    for one in segments:
        if one.member in kept:
            following.append(replace(one, generation=one.generation + 1, parent=one.member))
            continue
        random = np.random.default_rng([spec.seed, one.generation + 1, one.member])
        source = best[int(random.integers(len(best)))]
        values = {key: _perturb(value, spec, key, random) for key, value in source.values.items()}
        following.append(Segment(one.generation + 1, one.member, values, source.member))
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

    def __init__(self, spec: Search, driver: Driver) -> None:
        """Compute the generations that have ended from their directories, and take up the one that has not.

        Raises:
            UserError: the directories belong to another population.
        """
        self.export: Callable[[SearchTrial], None] = lambda trial: None
        """Is told of each segment that ends without having failed."""
        self.trials: list[SearchTrial] = []
        """Those segments."""
        self._spec = spec
        self._driver = driver
        self._epochs = spec.default.train.epochs
        self._last = math.ceil(self._epochs / spec.population.interval) - 1
        self._segments: dict[str, Segment] = {}
        """By name."""
        self._names: dict[tuple[int, int], str] = {}
        """By generation and member."""
        self._generation: list[Segment] = []
        self._errors: dict[int, float] = {}
        """Of the generation's members whose segment has ended."""
        self._waiting: deque[str] = deque()
        self._begin(first_generation(spec))
        for path in driver.folder.glob("g000-m*"):
            if path.name not in self._segments and (path / "config.json").exists():
                raise other_search(path, "is not of the first generation that the file's base, space and seed give")
        self._go_on()

    @property
    def exhausted(self) -> bool:
        """See `JobSource.exhausted`."""
        return len(self._errors) == len(self._generation)

    def next_job(self) -> TrialJob | None:
        """See `JobSource.next_job`; none while the generation waits for its last members."""
        if not self._waiting:
            return None
        name = self._waiting.popleft()
        segment = self._segments[name]
        ends = () if segment.generation == self._last else (self._end_of(segment.generation),)
        job = self._driver.job(self._driver.trials[name], ends)
        if segment.parent is None:
            return job
        parent = self._names[segment.generation - 1, segment.parent]
        return replace(job, parent=self._driver.directory(parent))

    def stops_here(self, name: str, progress: TrialProgress) -> bool:
        """See `JobSource.stops_here`: each segment but the last ends with its generation."""
        segment = self._segments[name]
        if segment.generation == self._last or progress.epoch < self._end_of(segment.generation):
            return False
        self._stop_early(name, EarlyStop(progress.epoch, progress.val_mae, f"generation {segment.generation} ended"))
        return True

    def finished(self, name: str, progress: TrialProgress) -> None:
        """See `JobSource.finished`."""
        self._settle(name)
        self._go_on()

    def failed(self, name: str, reason: str) -> None:
        """See `JobSource.failed`: the member takes over from another one; that is final, as the others go on."""
        self._driver.directory(name).path.mkdir(parents=True, exist_ok=True)
        self._stop_early(name, EarlyStop(0, math.inf, f"failed: {reason}"))

    def _stop_early(self, name: str, decision: EarlyStop) -> None:
        self._driver.directory(name).stop_early(decision)
        self._settle(name)
        self._go_on()

    def _begin(self, generation: list[Segment]) -> None:
        """Start a generation: settle what its directories hold, queue the rest."""
        self._generation, self._errors, self._waiting = generation, {}, deque()
        for segment in generation:
            config = self._spec.config(segment.values)
            name = f"g{segment.generation:03d}-m{segment.member:02d}-{subject(config)}-{config.fingerprint()}"
            self._segments[name] = segment
            self._names[segment.generation, segment.member] = name
            self._driver.add(Trial(name, config), load_task_once(config.data))
            if self._driver.statuses[name].standing in ("done", "stopped early"):
                self._settle(name)
            else:
                self._waiting.append(name)

    def _settle(self, name: str) -> None:
        """Take up how a segment ended, from its directory."""
        segment, status = self._segments[name], self._driver.history(name)
        error = math.inf if status.val_mae is None else status.val_mae
        self._errors[segment.member] = error
        if math.isfinite(error):
            number = segment.generation * self._spec.population.members + segment.member
            self.trials.append(SearchTrial(number, segment.values, self._driver.trials[name], status))
            self.export(self.trials[-1])

    def _go_on(self) -> None:
        while self._generation and self.exhausted and self._generation[0].generation < self._last:
            self._begin(next_generation(self._spec, self._generation, self._errors))

    def _end_of(self, generation: int) -> int:
        return min(self._epochs, (generation + 1) * self._spec.population.interval)
