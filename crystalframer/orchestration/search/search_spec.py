"""A search file, read strictly: what is searched, how, within which budget, and what is confirmed at the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from crystalframer.config import TrialConfig, build_trial, setting_names
from crystalframer.errors import UserError, near_matches
from crystalframer.orchestration.cluster.jobs import Resources
from crystalframer.orchestration.sweeps.spec import (
    NAME,
    PROSE,
    Record,
    apply_overrides,
    read_budget,
    read_record,
    read_resources,
    stated_once,
)
from crystalframer.orchestration.sweeps.yaml_reading import (
    known_keys,
    list_of,
    mapping,
    parse_yaml,
    positive_number,
    settings,
    whole_number,
)
from crystalframer.runs.budget import Budget

Kind = Literal["uniform", "loguniform", "int", "choice"]
Objective = Literal["val_mae", "seconds_per_epoch", "num_parameters"]
Method = Literal["tpe", "random", "pbt"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
METHODS: tuple[Method, ...] = get_args(Method)
PBT_SETTINGS = ("learning_rate", "beta_1", "beta_2", "weight_decay", "clip_norm", "decay_steps")
"""Settings of ``train`` that may change while a model trains."""
FIELDS = (
    *PROSE,
    "reference",
    "method",
    "objectives",
    "base",
    "space",
    "early_stopping",
    "population",
    "confirm",
    "seed",
    "resources",
    "max_failures",
    "record",
    "budget",
)
_NOT_SEARCHED = ("train.seed", "train.epochs", "data.train_size", "data.val_size", "data.test_size", "train.start_from")


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

    min_epochs: int = 1
    """First rung."""
    reduction: int = 3
    """Ratio of the rungs' epochs, and of the trials before and after a rung."""

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs at which trials of so many epochs may end."""
        found, rung = [], self.min_epochs
        while rung < epochs:
            found.append(rung)
            rung *= self.reduction
        return tuple(found)


@dataclass(frozen=True)
class Population:
    """Population-based training: all members train side by side, and the worst take over from the best."""

    members: int = 8
    interval: int = 1
    """Epochs between two exchanges."""
    replaced: float = 0.25
    """Share of the members that take over weights and settings, and as large a share that they are taken from."""
    factor: float = 1.25
    """By how much a setting taken over is then raised or lowered."""


@dataclass(frozen=True)
class Confirm:
    """The best trials, run again with other seeds to their last epoch."""

    best: int = 0
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Limits:
    """When a search has seen enough; None for no bound."""

    trials: int = 20
    epochs: int | None = None
    """Of all its trials together."""


@dataclass(frozen=True)
class SearchSpec:
    """A hyperparameter search."""

    name: str
    """The YAML file's stem; also the Optuna study's."""
    question: str
    expectation: str
    command: str
    duration: str
    space: Mapping[str, Range]
    """Where each setting is searched, by dotted key."""
    reference: str = ""
    method: Method = "tpe"
    objectives: tuple[Objective, ...] = ("val_mae",)
    base: Mapping[str, Any] = field(default_factory=dict)
    """Differences to the defaults by dotted key, the same in every trial."""
    early_stopping: EarlyStopping | None = None
    population: Population = Population()
    confirm: Confirm = Confirm()
    seed: int = 0
    """Of the search's own random numbers."""
    limits: Limits = Limits()
    resources: Resources = field(default_factory=Resources)
    max_failures: int = 3
    record: Record = field(default_factory=Record)
    budget: Budget = field(default_factory=Budget)

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


def load_search(path: Path, overrides: Sequence[str] = ()) -> SearchSpec:
    """Read and check a search file.

    Args:
        path: the YAML file; its stem is the search's name.
        overrides: ``key=value`` texts, values in YAML, that replace settings of `base`, `resources`, `record`,
            `budget` or `max_failures`.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown or stated twice, a field is missing, or a value
            has the wrong type or range.
    """
    if not path.is_file():
        known = [str(other) for other in sorted(path.parent.glob("*.yaml"))]
        hint = near_matches(str(path), known) if known else " (no YAML file is in that folder)"
        raise UserError(f"no search file {str(path)!r}{hint}")
    if not NAME.fullmatch(path.stem):
        raise UserError(f"search file {str(path)!r}: the stem names the study, use letters, digits, '_', '-', '.'")
    try:
        return _spec_from(path.stem, mapping("the file", parse_yaml(path.read_text(encoding="utf-8"))), overrides)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _spec_from(name: str, fields: Mapping[str, Any], overrides: Sequence[str]) -> SearchSpec:
    if "grid" in fields:
        raise UserError("field 'grid': this is a sweep; run it with pipelines/ablate_frames.py")
    known_keys(fields, FIELDS, "field")
    for key in PROSE:
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise UserError(f"field {key!r}: got {fields.get(key)!r}, expected a sentence")
    parts: dict[str, Any] = {
        "base": settings("base", fields.get("base", {})),
        "max_failures": fields.get("max_failures", SearchSpec.max_failures),
        **{key: dict(mapping(key, fields.get(key, {}))) for key in ("resources", "record", "budget")},
    }
    apply_overrides(parts, overrides)
    space = {key: _range(f"space.{key}", value) for key, value in settings("space", fields.get("space", {})).items()}
    stated_once({"base": parts["base"], "space": space})
    early = fields.get("early_stopping")
    spec = SearchSpec(
        name=name,
        **{key: fields[key].strip() for key in PROSE},
        reference=str(fields.get("reference", "")).strip(),
        method=_one_of("method", fields.get("method", "tpe"), METHODS),
        objectives=tuple(
            _one_of("objectives", one, OBJECTIVES)
            for one in list_of("objectives", fields.get("objectives", ["val_mae"]))
        ),
        base=parts["base"],
        space=space,
        early_stopping=None if early is None else _early_stopping(mapping("early_stopping", early)),
        population=_population(mapping("population", fields.get("population", {}))),
        confirm=_confirm(mapping("confirm", fields.get("confirm", {}))),
        seed=whole_number("seed", fields.get("seed", 0), least=0),
        limits=_limits({key: parts["budget"].pop(key) for key in ("trials", "epochs") if key in parts["budget"]}),
        resources=read_resources(parts["resources"]),
        max_failures=whole_number("max_failures", parts["max_failures"], least=0),
        record=read_record(parts["record"]),
        budget=read_budget(parts["budget"]),
    )
    _check(spec)
    return spec


def _check(spec: SearchSpec) -> None:
    """Raise a `UserError` where the parts of a search do not go together."""
    if not spec.space:
        raise UserError("field 'space': got nothing, expected at least one setting and where to search it")
    for key in spec.space:
        if key in _NOT_SEARCHED or key.endswith(".preset"):
            raise UserError(f"space.{key}: is not searched; state it in base")
    if spec.objectives[0] != "val_mae" or len(set(spec.objectives)) != len(spec.objectives):
        raise UserError(f"field 'objectives': got {list(spec.objectives)}, expected val_mae first, and each one once")
    for key, where in spec.space.items():
        for value in where.corners():
            spec.config({key: value})  # a range that leaves what a setting may be shows here
    epochs = spec.default.train.epochs
    if spec.early_stopping is not None and not spec.early_stopping.rungs(epochs):
        raise UserError(f"early_stopping.min_epochs: leaves no rung below train.epochs ({epochs})")
    if spec.method == "pbt":
        _check_population(spec, epochs)


def _check_population(spec: SearchSpec, epochs: int) -> None:
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


def _range(where: str, content: Any) -> Range:
    fields = dict(mapping(where, content))
    step = whole_number(f"{where}.step", fields.pop("step", 1), least=1)
    if len(fields) != 1:
        raise UserError(f"{where}: got {content!r}, expected one of {', '.join(KINDS)}, e.g. {{uniform: [0, 1]}}")
    ((name, bounds),) = fields.items()
    kind = _one_of(where, name, KINDS)
    if kind == "choice":
        options = tuple(list_of(f"{where}.choice", bounds))
        if len(options) < 2 or len({repr(option) for option in options}) != len(options):
            raise UserError(f"{where}.choice: got {bounds!r}, expected at least two different values")
        return Range(kind, options=options)
    values = list_of(f"{where}.{kind}", bounds)
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise UserError(f"{where}.{kind}: got {bounds!r}, expected two numbers (YAML reads 5e-4 as text: 5.0e-4)")
    low, high = values
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (kind == "loguniform" and low <= 0):
        raise UserError(f"{where}.{kind}: got {bounds!r}, expected a lower and a higher number, above 0 for loguniform")
    if kind == "int" and any(not isinstance(value, int) for value in values):
        raise UserError(f"{where}.int: got {bounds!r}, expected whole numbers")
    return Range(kind, float(low), float(high), step)


def _early_stopping(content: Mapping[str, Any]) -> EarlyStopping:
    known_keys(content, ("min_epochs", "reduction"), "field in early_stopping:")
    first = whole_number("early_stopping.min_epochs", content.get("min_epochs", 1), least=1)
    return EarlyStopping(first, whole_number("early_stopping.reduction", content.get("reduction", 3), least=2))


def _population(content: Mapping[str, Any]) -> Population:
    known_keys(content, ("members", "interval", "replaced", "factor"), "field in population:")
    replaced = positive_number("population.replaced", content.get("replaced", Population.replaced))
    factor = positive_number("population.factor", content.get("factor", Population.factor))
    if replaced > 0.5 or factor <= 1:
        raise UserError("population: expected replaced at most 0.5 and factor above 1")
    members = whole_number("population.members", content.get("members", Population.members), least=2)
    return Population(
        members, whole_number("population.interval", content.get("interval", 1), least=1), replaced, factor
    )


def _confirm(content: Mapping[str, Any]) -> Confirm:
    known_keys(content, ("best", "seeds"), "field in confirm:")
    seeds = [
        whole_number("confirm.seeds", seed, least=0)
        for seed in list_of("confirm.seeds", content.get("seeds", []), empty=True)
    ]
    best = whole_number("confirm.best", content.get("best", 0), least=0)
    if bool(best) != bool(seeds):
        raise UserError("confirm: expected both best and seeds, e.g. {best: 3, seeds: [1, 2, 3]}")
    return Confirm(best, tuple(seeds))


def _limits(content: Mapping[str, Any]) -> Limits:
    trials = whole_number("budget.trials", content.get("trials", Limits.trials), least=1)
    epochs = content.get("epochs")
    return Limits(trials, None if epochs is None else whole_number("budget.epochs", epochs, least=1))


def _one_of(where: str, value: Any, known: Sequence[Any]) -> Any:
    if value not in known:
        raise UserError(f"{where}: unknown {value!r}{near_matches(str(value), known)}")
    return value


assert set(_NOT_SEARCHED) <= set(setting_names())
