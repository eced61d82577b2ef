"""A sweep file, read strictly: what it asks, what it varies, and the trials that follow from it."""

import itertools
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crystalframer.config import TrialConfig, build_trial, setting_names
from crystalframer.errors import UserError, near_matches

PROSE = ("question", "expectation", "command", "duration")
"""Fields that every sweep file states in words before it runs."""
SECTIONS = ("data", "model", "train")
_FIELDS = (*PROSE, "reference", "base", "grid", "resources", "max_failures", "record")
_ALWAYS_NAMED = ("data.task", "model.frame", "train.seed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Resources:
    """What one trial occupies."""

    cpus_per_trial: int = 1
    """CPU cores, and threads of every numeric library."""
    gpus_per_trial: float = 0.0
    """GPUs; a fraction lets several trials share one."""


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
class Trial:
    """One training run of a sweep; its name is also the run directory's, Ray's and MLflow's."""

    name: str
    config: TrialConfig


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
    resources: Resources = Resources()
    max_failures: int = 3
    """How often a trial whose worker died or raised is started again."""
    record: Record = Record()

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
        overrides: ``key=value`` texts, values in YAML, that replace settings of `base`, `resources`, `record` or
            `max_failures`.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown or stated twice, a field is missing, or a value
            has the wrong type or range.
    """
    if not path.is_file():
        raise UserError(f"no sweep file {str(path)!r}{_sweeps_beside(path)}")
    if not _NAME.fullmatch(path.stem):
        raise UserError(f"sweep file {str(path)!r}: the stem names the experiment, use letters, digits, '_', '-', '.'")
    try:
        return _spec_from(path.stem, _parse(path.read_text(encoding="utf-8")), overrides)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _sweeps_beside(path: Path) -> str:
    known = [str(other) for other in sorted(path.parent.glob("*.yaml"))]
    return near_matches(str(path), known) if known else " (no YAML file is in that folder)"


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1 without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen:
                raise UserError(f"key {key!r} is stated twice, on lines {seen[key]} and {line}")
            seen[key] = line
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}") from error


def _spec_from(name: str, content: Any, overrides: Sequence[str]) -> SweepSpec:
    fields = _mapping("the file", content)
    _known_keys(fields, _FIELDS, "field")
    for key in PROSE:
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise UserError(f"field {key!r}: got {fields.get(key)!r}, expected a sentence")
    grid = dict(_mapping("grid", fields.get("grid", {})))
    cases = tuple(_settings("grid.cases", case) for case in _list("grid.cases", grid.pop("cases", []), empty=True))
    spec_parts: dict[str, Any] = {
        "base": _settings("base", fields.get("base", {})),
        "resources": dict(_mapping("resources", fields.get("resources", {}))),
        "record": dict(_mapping("record", fields.get("record", {}))),
        "max_failures": fields.get("max_failures", SweepSpec.max_failures),
    }
    values = {key: tuple(_list(f"grid.{key}", options)) for key, options in _settings("grid", grid).items()}
    _apply_overrides(spec_parts, overrides)
    _stated_once(spec_parts["base"], values, cases)
    return SweepSpec(
        name=name,
        **{key: fields[key].strip() for key in PROSE},
        reference=str(fields.get("reference", "")).strip(),
        base=spec_parts["base"],
        grid=values,
        cases=cases,
        resources=_resources(spec_parts["resources"]),
        max_failures=_whole_number("max_failures", spec_parts["max_failures"], least=0),
        record=_record(spec_parts["record"]),
    )


def _apply_overrides(parts: dict[str, Any], overrides: Sequence[str]) -> None:
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text!r}: expected key=value, e.g. --set train.epochs=10")
        section, _, rest = key.partition(".")
        if key == "max_failures":
            parts["max_failures"] = _parse(value)
        elif section in ("resources", "record") and rest:
            parts[section][rest] = _parse(value)
        else:
            parts["base"] |= _settings("--set", {key: _parse(value)})


def _stated_once(base: Mapping[str, Any], grid: Mapping[str, Any], cases: Iterable[Mapping[str, Any]]) -> None:
    places = {"base": set(base), "grid": set(grid), "grid.cases": {key for case in cases for key in case}}
    for one, other in itertools.combinations(places, 2):
        for key in sorted(places[one] & places[other]):
            raise UserError(f"setting {key!r} is stated in {one} and in {other}; keep one of them")


def _settings(where: str, content: Any) -> dict[str, Any]:
    """Flatten nested sections and check every dotted key."""
    flat: dict[str, Any] = {}
    for key, value in _mapping(where, content).items():
        nested = key in SECTIONS and isinstance(value, Mapping)
        entries = {f"{key}.{name}": entry for name, entry in value.items()} if nested else {key: value}
        for dotted, entry in entries.items():
            if dotted in flat:
                raise UserError(f"setting {dotted!r} is stated twice in {where}")
            flat[dotted] = entry
    _known_keys(flat, setting_names(), f"setting in {where}:")
    return flat


def _resources(content: Mapping[str, Any]) -> Resources:
    _known_keys(content, ("cpus_per_trial", "gpus_per_trial"), "field in resources:")
    gpus = content.get("gpus_per_trial", Resources.gpus_per_trial)
    if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 <= gpus < 1e3:
        raise UserError(f"resources.gpus_per_trial: got {gpus!r}, expected a number that is not negative")
    cpus = content.get("cpus_per_trial", Resources.cpus_per_trial)
    return Resources(_whole_number("resources.cpus_per_trial", cpus, least=1), float(gpus))


def _record(content: Mapping[str, Any]) -> Record:
    _known_keys(content, ("snapshots", "seeds"), "field in record:")
    seeds = content.get("seeds")
    if seeds is not None:
        seeds = tuple(_whole_number("record.seeds", seed, least=0) for seed in _list("record.seeds", seeds))
    return Record(_whole_number("record.snapshots", content.get("snapshots", Record.snapshots), least=0), seeds)


def _known_keys(content: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"unknown {what} {key!r}{near_matches(str(key), known)}")


def _mapping(where: str, content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: got {content!r}, expected a mapping of keys to values")
    return content


def _list(where: str, content: Any, *, empty: bool = False) -> list[Any]:
    if not isinstance(content, list) or not (content or empty):
        raise UserError(f"{where}: got {content!r}, expected a list of values such as [0, 1]")
    return content


def _whole_number(where: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{where}: got {value!r}, expected a whole number, at least {least}")
    return value


def _token(key: str, value: Any) -> str:
    """Return a setting as it appears in a trial's name: letters, digits, '_', '.' and '+' only."""
    name = key.partition(".")[2]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+]", "_", text if name == "preset" or isinstance(value, str) else f"{name}{text}")
