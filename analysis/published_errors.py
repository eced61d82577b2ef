"""The literature's figures: declarations in `published/*.yaml`, checked when they are read."""

import json
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from pathlib import Path

import pydantic
import yaml
from pydantic.dataclasses import dataclass

from analysis.comparison import VARIES, Comparison, Row, paper_setting
from crystalframer.config import FrameName, ModelConfig
from crystalframer.published import PUBLISHED, PublishedTask

FOLDER = Path(__file__).parent / "published"

_STRICT = pydantic.ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class Method:
    """One method's test MAE per task; None = not reported."""

    name: str
    source: str
    mae: dict[str, float | None]
    frame: FrameName | None = None
    """Set where the method is one of our models."""
    config: str = "default"
    blocks: int = 4
    transfer: bool = False
    """Whether it learned from other targets, too: not to be compared with figures of one task."""


@dataclass(frozen=True, config=_STRICT)
class Published:
    """The published figures on one data set."""

    dataset: str
    source_dataset: str
    methods: list[Method]

    @property
    def tasks(self) -> Mapping[str, PublishedTask]:
        """The data set's tasks, in the order of the columns."""
        return PUBLISHED[self.dataset].tasks

    def mae(self, task: str, model: ModelConfig) -> float | None:
        """Return the paper's test MAE of a model on a task, None where it reports none for these settings."""
        wanted = (model.frame, paper_setting(model), model.num_blocks)
        for method in self.methods:
            if (method.frame, method.config, method.blocks) == wanted:
                return method.mae.get(task)
        return None


@dataclass(frozen=True, config=_STRICT)
class Speed:
    """Published cost of a method on JARVIS formation energy."""

    name: str
    seconds_per_epoch: float
    test_ms_per_material: float
    parameters: int


@dataclass(frozen=True, config=_STRICT)
class Efficiency:
    """The published comparison of speed and size."""

    source: str
    methods: list[Speed] = field(default_factory=list)


@cache
def load_published(dataset: str) -> Published | None:
    """Return the published figures on a data set, None where it is none of the paper's."""
    path = FOLDER / f"{dataset}.yaml"
    return pydantic.TypeAdapter(Published).validate_json(_json(path)) if path.is_file() else None


def published_beside(comparison: Comparison) -> tuple[Published, str] | None:
    """Return the published figures that may stand beside a comparison's, and the name of its task there.

    None where there are none, or where the test set differs by more than 1 % from the published one.
    """
    dataset, _, task = comparison.part_of.partition(":")
    published = load_published(dataset) if comparison.same_test_set else None
    return (published, task) if published and task in published.tasks else None


def published_mae(comparison: Comparison, row: Row) -> float | None:
    """Return the published error of a row's model, None where none may stand beside it.

    Where rows learned from different numbers of crystals it stands beside those that learned from all.
    """
    beside = published_beside(comparison)
    fewer = comparison.common("data.train_size") is VARIES and any(t.config.data.train_size for t in row.trials)
    if beside is None or fewer:
        return None
    published, task = beside
    return published.mae(task, row.model)


def load_efficiency() -> Efficiency:
    """Return the published speed and size."""
    return pydantic.TypeAdapter(Efficiency).validate_json(_json(FOLDER / "efficiency.yaml"))


def _json(path: Path) -> str:
    """Return a YAML file as JSON, which pydantic checks strictly and yet turns into dataclasses."""
    return json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")))
