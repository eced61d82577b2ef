"""A sweep file, read strictly: what it asks, what it varies, and the trials that follow from it."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crystalframer.config import TrialConfig, build_trial
from crystalframer.errors import UserError, near_matches
from crystalframer.orchestration.cluster.jobs import Resources
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
from crystalframer.runs.trial import Trial

PROSE = ("question", "expectation", "command", "duration")
"""Fields that every sweep file states in words before it runs."""
_FIELDS = (*PROSE, "reference", "base", "grid", "resources", "max_failures", "record", "budget")
_ALWAYS_NAMED = ("data.task", "model.frame", "train.seed")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Record:
    """What a trial leaves behind beside its last checkpoint; changes no result."""

    snapshots: int = 0
    """Models to keep from evenly spaced epochs, the last one included."""
    seeds: tuple[int, ...] | None = None
    """Seeds whose trials keep them, None for all."""

    def snapshots_of(self, config: TrialConfig) -> int:
        """Return how many models a trial keeps."""
        return self.snapshots if self.seeds is None or config.train.seed in self.seeds else 0


@dataclass(frozen=True)
class SweepSpec:
    """A sweep: one question, and the trials that answer it."""

    name: str
    """The YAML file's stem."""
    question: str
    expectation: str
    """What should come out, written down before it runs."""
    command: str
    duration: str
    reference: str = ""
    """Where the question or the settings come from."""
    base: Mapping[str, Any] = field(default_factory=dict)
    """Differences to the defaults by dotted key, the same in every trial."""
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values by dotted key; all combinations are run."""
    cases: tuple[Mapping[str, Any], ...] = ()
    """Settings that belong together, e.g. a data set, its task and its preset; varied as one."""
    resources: Resources = field(default_factory=Resources)
    max_failures: int = 3
    """How often a trial whose worker died or raised is started again."""
    record: Record = Record()
    budget: Budget = field(default_factory=Budget)

    def trials(self) -> list[Trial]:
        """Return the trials, seeds outermost and frames innermost so that a table fills evenly.

        A name states the task, the frame, every other setting of the grid, the seed and the settings' fingerprint,
        e.g. ``formation_energy-max-seed0-1a2b3c4d``: adding values to the grid renames nothing.

        Raises:
            UserError: a setting is unknown or out of range, or two trials have the same settings.
        """
        trials = []
        for varied in self._points():
            config = build_trial({**self.base, **varied})
            trials.append(Trial(self._trial_name(config, varied), config))
        repeated = [
            name for name, count in Counter(trial.config.fingerprint() for trial in trials).items() if count > 1
        ]
        if repeated:
            twins = [trial.name for trial in trials if trial.config.fingerprint() == repeated[0]]
            raise UserError(f"sweep {self.name!r} lists the same trial twice ({twins[0]}); remove one of the values")
        return trials

    def _points(self) -> Iterator[dict[str, Any]]:
        inner = [key for key in self.grid if key not in ("train.seed", "model.frame")]
        for seed in self._options("train.seed"):
            for case in self.cases or ({},):
                for values in itertools.product(*(self.grid[key] for key in inner)):
                    for frame in self._options("model.frame"):
                        yield {**case, **dict(zip(inner, values, strict=True)), **frame, **seed}

    def _options(self, key: str) -> list[dict[str, Any]]:
        return [{key: value} for value in self.grid[key]] if key in self.grid else [{}]

    def _trial_name(self, config: TrialConfig, varied: Mapping[str, Any]) -> str:
        flat = config.to_flat_dict()
        parts = [flat["data.dataset"]] if "data.dataset" in varied else []
        parts += [flat["data.task"].replace(",", "+"), flat["model.frame"]]
        for key, value in varied.items():
            if key not in (*_ALWAYS_NAMED, "data.dataset") and not self._follows_dataset(key):
                parts.append(_token(key, value))
        return "-".join([*parts, f"seed{flat['train.seed']}", config.fingerprint()])

    def _follows_dataset(self, key: str) -> bool:
        """Return whether a setting of the cases is the same wherever the data set is, so that names can omit it."""
        if any("data.dataset" not in case for case in self.cases) or key in self.grid:
            return False
        pairs = {(case["data.dataset"], case.get(key)) for case in self.cases}
        return len(pairs) == len({dataset for dataset, _ in pairs})


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read and check a sweep file.

    Args:
        path: the YAML file; its stem is the sweep's name.
        overrides: ``key=value`` texts, values in YAML, that replace settings of `base`, `resources`, `record`, `budget`
            or `max_failures`.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown or stated twice, a field is missing, or a value
            has the wrong type or range.
    """
    if not path.is_file():
        raise UserError(f"no sweep file {str(path)!r}{_sweeps_beside(path)}")
    if not NAME.fullmatch(path.stem):
        raise UserError(f"sweep file {str(path)!r}: the stem names the experiment, use letters, digits, '_', '-', '.'")
    try:
        return _spec_from(path.stem, parse_yaml(path.read_text(encoding="utf-8")), overrides)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _sweeps_beside(path: Path) -> str:
    known = [str(other) for other in sorted(path.parent.glob("*.yaml"))]
    return near_matches(str(path), known) if known else " (no YAML file is in that folder)"


def _spec_from(name: str, content: Any, overrides: Sequence[str]) -> SweepSpec:
    fields = mapping("the file", content)
    if "space" in fields:
        raise UserError("field 'space': this is a search; run it with pipelines/tune_hyperparameters.py")
    known_keys(fields, _FIELDS, "field")
    for key in PROSE:
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise UserError(f"field {key!r}: got {fields.get(key)!r}, expected a sentence")
    grid = dict(mapping("grid", fields.get("grid", {})))
    cases = tuple(settings("grid.cases", case) for case in list_of("grid.cases", grid.pop("cases", []), empty=True))
    spec_parts: dict[str, Any] = {
        "base": settings("base", fields.get("base", {})),
        "resources": dict(mapping("resources", fields.get("resources", {}))),
        "record": dict(mapping("record", fields.get("record", {}))),
        "budget": dict(mapping("budget", fields.get("budget", {}))),
        "max_failures": fields.get("max_failures", SweepSpec.max_failures),
    }
    values = {key: tuple(list_of(f"grid.{key}", options)) for key, options in settings("grid", grid).items()}
    apply_overrides(spec_parts, overrides)
    _stated_once(spec_parts["base"], values, cases)
    return SweepSpec(
        name=name,
        **{key: fields[key].strip() for key in PROSE},
        reference=str(fields.get("reference", "")).strip(),
        base=spec_parts["base"],
        grid=values,
        cases=cases,
        resources=read_resources(spec_parts["resources"]),
        max_failures=whole_number("max_failures", spec_parts["max_failures"], least=0),
        record=read_record(spec_parts["record"]),
        budget=read_budget(spec_parts["budget"]),
    )


def apply_overrides(parts: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put ``key=value`` texts in place of what a file's parts say."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text!r}: expected key=value, e.g. --set train.epochs=10")
        section, _, rest = key.partition(".")
        if key == "max_failures":
            parts["max_failures"] = parse_yaml(value)
        elif section in parts and section != "base" and rest:
            parts[section][rest] = parse_yaml(value)
        else:
            parts["base"] |= settings("--set", {key: parse_yaml(value)})


def _stated_once(base: Mapping[str, Any], grid: Mapping[str, Any], cases: Iterable[Mapping[str, Any]]) -> None:
    stated_once({"base": base, "grid": grid, "grid.cases": {key for case in cases for key in case}})


def stated_once(content: Mapping[str, Iterable[str]]) -> None:
    """Raise a `UserError` for a setting that stands in two of a file's places."""
    places = {place: set(keys) for place, keys in content.items()}
    for one, other in itertools.combinations(places, 2):
        for key in sorted(places[one] & places[other]):
            raise UserError(f"setting {key!r} is stated in {one} and in {other}; keep one of them")


def read_resources(content: Mapping[str, Any]) -> Resources:
    """Read the field `resources`."""
    known_keys(content, ("cpus_per_trial", "gpus_per_trial"), "field in resources:")
    cpus = whole_number("resources.cpus_per_trial", content.get("cpus_per_trial", Resources.cpus_per_trial), least=1)
    gpus = content.get("gpus_per_trial", Resources.gpus_per_trial)
    if gpus == "auto":
        return Resources(cpus, 1.0, measured=True)
    if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 <= gpus < 1e3:
        raise UserError(
            f"resources.gpus_per_trial: got {gpus!r}, expected a number that is not negative, or auto for as many "
            "trials on a GPU as its memory holds"
        )
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"resources.gpus_per_trial: got {gpus!r}, expected a whole number or a fraction below 1")
    return Resources(cpus, float(gpus))


def read_record(content: Mapping[str, Any]) -> Record:
    """Read the field `record`."""
    known_keys(content, ("snapshots", "seeds"), "field in record:")
    seeds = content.get("seeds")
    if seeds is not None:
        seeds = tuple(whole_number("record.seeds", seed, least=0) for seed in list_of("record.seeds", seeds))
    return Record(whole_number("record.snapshots", content.get("snapshots", Record.snapshots), least=0), seeds)


def read_budget(content: Mapping[str, Any]) -> Budget:
    """Read the field `budget`."""
    known_keys(content, ("hours", "cost_per_hour", "max_cost"), "field in budget:")
    values = {key: positive_number(f"budget.{key}", value, zero=True) for key, value in content.items()}
    if "max_cost" in values and not values.get("cost_per_hour"):
        raise UserError("budget.max_cost: needs budget.cost_per_hour, the price of what one trial occupies for an hour")
    return Budget(**values)


def _token(key: str, value: Any) -> str:
    """Return a setting as it appears in a trial's name: letters, digits, '_', '.' and '+' only."""
    name = key.partition(".")[2]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+]", "_", text if name == "preset" or isinstance(value, str) else f"{name}{text}")
