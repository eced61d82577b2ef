"""Experiment files: what a sweep and a search state alike, read strictly, and the trials that follow from a sweep."""

import dataclasses
import itertools
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

import pydantic
from pydantic import Field

from crystalframer.config import TrialConfig
from crystalframer.errors import UserError, near_matches
from crystalframer.escaping import shortened
from crystalframer.orchestration.cluster.jobs import Resources
from crystalframer.resolving import build_trial
from crystalframer.runs.budget import Budget
from crystalframer.runs.trial import Trial
from crystalframer.validation import STRICT, Whole, number, quote, sentence, unknown
from crystalframer.yaml_reading import list_of, mapping, parse_set, read_yaml, settings

LONGEST_PARTS = 200
"""Bytes of a trial's name without seed and fingerprint."""
MOST_TRIALS = 20_000
_ALWAYS_NAMED = ("data.task", "model.frame", "train.seed")
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Prose = Annotated[str, Field(pattern=r"\S")]
Seeds = tuple[Annotated[Whole, Field(ge=0, lt=2**31)], ...]


@dataclass(frozen=True)
class Record:
    """What a trial leaves behind beside its last checkpoint; changes no result."""

    snapshots: Annotated[Whole, Field(ge=0, le=10_000)] = 0
    """Models to keep from evenly spaced epochs, the last one included."""
    seeds: Annotated[Seeds, Field(min_length=1)] | None = None
    """Seeds whose trials keep them, None for all."""

    def snapshots_of(self, config: TrialConfig) -> int:
        """Return how many models a trial keeps."""
        return self.snapshots if self.seeds is None or config.train.seed in self.seeds else 0


class Experiment(pydantic.BaseModel):
    """What a sweep and a search have in common: a question, what all trials share, and what they may use."""

    model_config = pydantic.ConfigDict(**STRICT, frozen=True, str_strip_whitespace=True)
    kind: ClassVar[str]
    """What the file is called in messages."""
    not_here: ClassVar[tuple[str, str]]
    """A field of the other kind of file, and what to do with a file that has it."""

    name: str
    """The YAML file's stem; also MLflow's experiment."""
    question: Prose
    expectation: Prose
    """What should come out, written down before it runs."""
    command: str = ""
    """What runs it, for who reads the file."""
    duration: str = ""
    """How long it takes, in words."""
    reference: str = ""
    """Where the question or the settings come from."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Differences to the defaults by dotted key, the same in every trial."""
    resources: Resources = Resources()
    max_failures: Annotated[Whole, Field(ge=0, le=1_000_000)] = 3
    """How often a trial whose worker died or raised is started again."""
    record: Record = Record()
    budget: Budget = Budget()

    @property
    def description(self) -> str:
        """The question, what was expected, and where it comes from: a paragraph each, as MLflow shows them."""
        return f"{self.question}\n\nExpected: {self.expectation}\n\n{self.reference}"

    def varied(self, trials: Iterable[Trial]) -> list[str]:
        """Return the settings in which trials of this file differ, by dotted name."""
        configs = [trial.config for trial in trials]
        names = configs[0].to_flat_dict() if configs else {}
        return [name for name in names if len(set(map(operator.attrgetter(name), configs))) > 1]

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Read and check a file.

        Args:
            path: the YAML file; its stem is the name.
            overrides: ``KEY=VALUE`` texts that replace settings of `base` and fields such as ``budget.hours``.

        Raises:
            UserError: the file is missing or no YAML, a key is unknown or stated twice, a field is missing, or a value
                has the wrong type or range.
        """
        if not path.is_file():
            beside = [str(other) for other in sorted(path.parent.glob("*.yaml"))]
            hint = near_matches(str(path), beside) if beside else " (no YAML file is in that folder)"
            raise UserError(f"no {cls.kind} file {str(path)!r}{hint}")
        if not _STEM.fullmatch(path.stem):
            raise UserError(
                f"{cls.kind} file {str(path)!r}: the stem names the experiment, use letters, digits, '_', '-', '.'"
            )
        try:
            content = cls._content(mapping("the file", read_yaml(path)), parse_set(overrides))
            return cls.model_validate_json(json.dumps({**content, "name": path.stem}))
        except pydantic.ValidationError as error:
            said = sentence(error, cls._place, cls._unknown_key)
            missing = [str(problem["loc"][0]) for problem in error.errors() if problem["type"] == "missing"]
            if len(missing) > 1 and said.startswith(cls._place(missing[0])):
                said = f"fields {', '.join(missing)}: got none of them, expected a sentence each"
            raise UserError(f"{path}: {said}") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @classmethod
    def _content(cls, content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return a file's fields but empty ones, with what the command line puts in their place."""
        field, remedy = cls.not_here
        if field in content:
            raise UserError(f"field {field!r}: {remedy}")
        fields = {key: value for key, value in content.items() if value is not None}
        base = settings("base", fields.get("base", {}))
        for key, value in overrides.items():
            field, _, name = key.partition(".")
            if field == "base" or field not in cls.model_fields:
                base |= settings("--set", {key: value})
            else:
                fields[field] = {**mapping(field, fields.get(field, {})), name: value} if name else value
        if "name" in fields:
            raise UserError("unknown field 'name'; an experiment is called as its file")
        return {**fields, "base": base}

    @classmethod
    def _place(cls, key: str) -> str:
        return f"field {key!r}" if key in ("question", "expectation", "command", "duration", "reference") else key

    @classmethod
    def _unknown_key(cls, parts: list[str]) -> str:
        if len(parts) == 1:
            return unknown("field", parts[0], [name for name in cls.model_fields if name != "name"])
        field = cls.model_fields[parts[0]].annotation
        kind = next(one for one in (field, *get_args(field)) if dataclasses.is_dataclass(one))
        return unknown(f"field in {parts[0]}:", parts[-1], [one.name for one in dataclasses.fields(kind)])

    def _check_stated_once(self, varied: Mapping[str, Iterable[str]]) -> None:
        """Raise a `UserError` for a setting that stands in two of a file's places."""
        places = {"base": set(self.base), **{place: set(keys) for place, keys in varied.items()}}
        for one, other in itertools.combinations(places, 2):
            for key in sorted(places[one] & places[other]):
                raise UserError(f"setting {key!r} is stated in {one} and in {other}; keep one of them")

    @pydantic.field_validator("resources", mode="before")
    @classmethod
    def _share_of_a_gpu(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "gpus_per_trial" not in content:
            return content
        if (gpus := number(content["gpus_per_trial"])) == "auto":
            return {**content, "gpus_per_trial": 1.0, "measured": True}
        if not isinstance(gpus, int | float) or not 0 <= gpus < 1e3 or (gpus > 1 and gpus != int(gpus)):
            raise UserError(
                f"resources.gpus_per_trial: got {quote(gpus)}, expected a whole number, a fraction below 1, or auto "
                "for as many trials on a GPU as its memory holds"
            )
        return {**content, "gpus_per_trial": float(gpus)}


class Sweep(Experiment):
    """A sweep: one question, and the trials that answer it."""

    kind = "sweep"
    not_here = ("space", "this is a search; run it with `crystalframer search`")

    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Values by dotted key, all combinations of which are run. `cases` lists settings that belong together, e.g. a data
    set, its task and its preset, and are varied as one."""

    @property
    def cases(self) -> list[dict[str, Any]]:
        """Settings that are varied as one."""
        return self.grid.get("cases") or [{}]

    @pydantic.field_validator("grid", mode="before")
    @classmethod
    def _flatten_grid(cls, content: Any) -> dict[str, list[Any]]:
        lists = dict(mapping("grid", content))
        cases = [settings("grid.cases", case) for case in list_of("grid.cases", lists.pop("cases", None) or [{}])]
        return {"cases": cases, **{key: list_of(f"grid.{key}", one) for key, one in settings("grid", lists).items()}}

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        lists = {key: values for key, values in self.grid.items() if key != "cases"}
        self._check_stated_once({"grid": lists, "grid.cases": itertools.chain.from_iterable(self.cases)})
        lengths = [len(values) for values in self.grid.values() if len(values) > 1]
        if (count := math.prod(lengths)) > MOST_TRIALS:
            product = " × ".join(map(str, lengths))
            raise UserError(f"field 'grid': {product} = {count:,} trials, expected at most {MOST_TRIALS:,}")
        return self

    def trials(self) -> list[Trial]:
        """Return the trials, seeds outermost and frames innermost so that a table fills evenly.

        A name states the task, the frame, every other setting of the grid, the seed and the settings' fingerprint,
        e.g. ``formation_energy-max-seed0-1a2b3c4d``: adding values to the grid renames nothing. What would be too long
        for a folder's name is cut, part by part.

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
        inner = [key for key in self.grid if key not in ("train.seed", "model.frame", "cases")]
        for seed in self._options("train.seed"):
            for case in self.cases:
                for values in itertools.product(*(self.grid[key] for key in inner)):
                    for frame in self._options("model.frame"):
                        yield {**case, **dict(zip(inner, values, strict=True)), **frame, **seed}

    def _options(self, key: str) -> list[dict[str, Any]]:
        return [{key: value} for value in self.grid.get(key, ())] or [{}]

    def _trial_name(self, config: TrialConfig, varied: Mapping[str, Any]) -> str:
        flat = config.to_flat_dict()
        subject = [flat["data.dataset"]] if "data.dataset" in varied else []
        subject.append(flat["data.task"].replace(",", "+"))
        others = [
            _token(key, value)
            for key, value in varied.items()
            if key not in (*_ALWAYS_NAMED, "data.dataset") and not self._follows_dataset(key)
        ]
        parts = ["-".join(subject), flat["model.frame"], *(["-".join(others)] if others else [])]
        if len("-".join(parts).encode()) > LONGEST_PARTS:
            parts = [shortened(part, LONGEST_PARTS // 2) for part in parts]
        return "-".join([*parts, f"seed{flat['train.seed']}", config.fingerprint()])

    def _follows_dataset(self, key: str) -> bool:
        """Return whether a setting of the cases is the same wherever the data set is, so that names can omit it."""
        if any("data.dataset" not in case for case in self.cases) or key in self.grid:
            return False
        pairs = {(case["data.dataset"], case.get(key)) for case in self.cases}
        return len(pairs) == len({dataset for dataset, _ in pairs})


load_sweep = Sweep.load


def _token(key: str, value: Any) -> str:
    """Return a setting as it appears in a trial's name: letters, digits, '_', '.' and '+' only."""
    name = key.partition(".")[2]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+]", "_", text if name == "preset" or isinstance(value, str) else f"{name}{text}")
