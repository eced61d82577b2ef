"""A search file, read strictly: what is searched, how, within which budget, and what is confirmed at the end."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

import pydantic
from pydantic import Field

from crystalframer.config import TrialConfig
from crystalframer.errors import UserError, near_matches
from crystalframer.orchestration.sweeps.spec import Experiment, Seeds
from crystalframer.resolving import build_trial, setting_value
from crystalframer.runs.budget import Budget
from crystalframer.runs.trial import Trial
from crystalframer.validation import Real, Whole, number, quote
from crystalframer.yaml_reading import list_of, mapping, settings

Kind = Literal["uniform", "loguniform", "int", "choice"]
Objective = Literal["val_mae", "seconds_per_epoch", "num_parameters"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PBT_SETTINGS = ("learning_rate", "beta_1", "beta_2", "weight_decay", "clip_norm", "decay_steps")
"""Settings of ``train`` that may change while a model trains."""
_NOT_SEARCHED = (
    "train.seed",
    "train.epochs",
    "train.minutes",
    "data.train_size",
    "data.val_size",
    "data.test_size",
    "train.start_from",
)
Count = Annotated[Whole, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class Range:
    """Where one setting is searched."""

    kind: Kind
    low: float = 0.0
    high: float = 0.0
    step: int = 1
    """Of a whole number."""
    options: tuple[Any, ...] = ()
    """Of a choice."""

    def corners(self) -> tuple[Any, ...]:
        """Return the extreme values, or all the options."""
        if self.kind == "choice":
            return self.options
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)


@dataclass(frozen=True)
class EarlyStopping:
    """Asynchronous successive halving (ASHA): at each rung only the best share of the trials so far goes on."""

    min_epochs: Count = 1
    """First rung."""
    reduction: Annotated[Whole, Field(ge=2, le=1_000_000)] = 3
    """Ratio of the rungs' epochs, and of the trials before and after a rung."""

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs at which trials of so many epochs may end."""
        found, rung = [], self.min_epochs
        while rung < epochs:
            found.append(rung)
            rung *= self.reduction
        return tuple(found)

    def goes_on(self, error: float, errors: Collection[float]) -> bool:
        """Return whether a trial is among the best at a rung, one in `reduction` of all that came there so far.

        The first trials at a rung go on, as there is nothing better yet. So no trial ever waits for another.

        Args:
            error: the trial's at the rung.
            errors: of all trials that came to the rung so far, this one included.
        """
        better = sum(other < error for other in errors)
        return not math.isnan(error) and better < max(1, len(errors) // self.reduction)


@dataclass(frozen=True)
class Population:
    """Population-based training: all members train side by side, and the worst take over from the best."""

    members: Annotated[Whole, Field(ge=2, le=10_000)] = 8
    interval: Count = 1
    """Epochs between two exchanges."""
    replaced: Annotated[Real, Field(gt=0.0, le=0.5)] = 0.25
    """Share of the members that take over weights and settings, and as large a share that they are taken from."""
    factor: Annotated[Real, Field(gt=1.0, le=1e6)] = 1.25
    """By how much a setting taken over is then raised or lowered."""


@dataclass(frozen=True)
class Confirm:
    """The best trials, run again with other seeds to their last epoch."""

    best: Annotated[Whole, Field(ge=0, le=10_000)] = 0
    seeds: Seeds = ()

    def __post_init__(self) -> None:
        if bool(self.best) != bool(self.seeds):
            raise UserError("confirm: expected both best and seeds, e.g. {best: 3, seeds: [1, 2, 3]}")


@dataclass(frozen=True)
class SearchBudget(Budget):
    """What a search may use, and when it has seen enough; None for no bound."""

    trials: Count = 20
    epochs: Annotated[Whole, Field(ge=1, le=10**12)] | None = None
    """Of all its trials together."""


class Search(Experiment):
    """A hyperparameter search; its name is also the Optuna study's."""

    kind = "search"
    not_here = ("grid", "this is a sweep; run it with `crystalframer sweep`")

    space: dict[str, Range] = Field(default_factory=dict)
    """Where each setting is searched, by dotted key."""
    method: Literal["tpe", "random", "pbt"] = "tpe"
    objectives: tuple[Objective, ...] = ("val_mae",)
    early_stopping: EarlyStopping | None = None
    population: Population = Population()
    confirm: Confirm = Confirm()
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Of the search's own random numbers."""
    budget: SearchBudget = SearchBudget()

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """Return the settings of a trial with these values of what is searched.

        Raises:
            UserError: they do not go together.
        """
        return build_trial({**self.base, **values})

    @property
    def default(self) -> TrialConfig:
        """The settings without anything searched."""
        return self.config({})

    def varied(self, trials: Iterable[Trial]) -> list[str]:
        """Return the settings that are searched; most trials are not known yet."""
        return list(self.space)

    @pydantic.field_validator("space", mode="plain")
    @classmethod
    def _read_space(cls, content: Any) -> dict[str, Range]:
        space = {key: _range(key, one) for key, one in settings("space", content).items()}
        for key in space:
            if key in _NOT_SEARCHED or key.endswith(".preset"):
                raise UserError(f"space.{key}: is not searched; state it in base")
        return space

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        """Raise a `UserError` where the parts do not go together."""
        if not self.space:
            raise UserError("field 'space': got nothing, expected at least one setting and where to search it")
        self._check_stated_once({"space": self.space})
        if self.objectives[:1] != ("val_mae",) or len(set(self.objectives)) != len(self.objectives):
            raise UserError(
                f"field 'objectives': got {list(self.objectives)}, expected val_mae first, and each one once"
            )
        for key, where in self.space.items():
            for value in where.corners():
                self.config({key: value})  # a range that leaves what a setting may be shows here
        epochs = self.default.train.epochs
        if self.default.train.minutes is not None and (self.early_stopping is not None or self.method == "pbt"):
            raise UserError(
                "setting 'train.minutes': got a time, but early_stopping and method pbt compare trials after equal "
                "epochs; state train.epochs instead, or leave early_stopping out"
            )
        if self.early_stopping is not None and not self.early_stopping.rungs(epochs):
            raise UserError(f"early_stopping.min_epochs: leaves no rung below train.epochs ({epochs})")
        if self.method == "pbt":
            _check_population(self, epochs)
        return self


load_search = Search.load


def _check_population(spec: Search, epochs: int) -> None:
    if spec.early_stopping is not None or len(spec.objectives) > 1 or spec.confirm.best:
        raise UserError("method pbt: has neither early_stopping nor a second objective nor confirm; leave them out")
    for key, where in spec.space.items():
        if key.partition(".")[2] not in PBT_SETTINGS or not key.startswith("train."):
            known = ", ".join(f"train.{name}" for name in PBT_SETTINGS)
            raise UserError(f"space.{key}: cannot change while a model trains; with method pbt search {known}")
        if where.kind == "choice":
            raise UserError(f"space.{key}: with method pbt expected uniform or loguniform")
    if spec.population.interval >= epochs:
        raise UserError(f"population.interval: expected less than train.epochs ({epochs})")


def _range(key: str, content: Any) -> Range:
    where, fields = f"space.{key}", dict(mapping(f"space.{key}", content))
    step = number(fields.pop("step", 1))
    if not isinstance(step, int) or step < 1:
        raise UserError(f"{where}.step: got {quote(step)}, expected a whole number, at least 1")
    if len(fields) != 1:
        raise UserError(f"{where}: got {quote(content)}, expected one of {', '.join(KINDS)}, e.g. {{uniform: [0, 1]}}")
    ((kind, bounds),) = fields.items()
    if kind not in KINDS:
        raise UserError(f"{where}: unknown {quote(kind)}{near_matches(kind, KINDS)}")
    values = list_of(f"{where}.{kind}", bounds)
    if kind == "choice":
        options = setting_value(key, values)
        if len(options) < 2 or len(set(map(repr, options))) != len(options):
            raise UserError(f"{where}.choice: got {quote(bounds)}, expected at least two different values")
        return Range(kind, options=tuple(options))
    ends = [end for end in map(number, values) if isinstance(end, int if kind == "int" else int | float)]
    if len(values) != 2 or len(ends) != 2:
        raise UserError(f"{where}.{kind}: got {quote(bounds)}, expected two {'whole ' * (kind == 'int')}numbers")
    low, high = map(float, ends)
    if not -math.inf < low < high < math.inf or (kind == "loguniform" and low <= 0):
        raise UserError(
            f"{where}.{kind}: got {quote(bounds)}, expected a lower and a higher number, above 0 for loguniform"
        )
    return Range(kind, low, high, step)
