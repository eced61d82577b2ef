"""Groups a sweep's trials into what is compared: per data set and task one row per frame, seeds averaged."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, combinations
from statistics import fmean, median
from typing import Any

from analysis.results import FinishedTrial, Results
from crystalframer.config import FRAMES, FrameName, ModelConfig
from crystalframer.data.dataset import SPLITS
from crystalframer.errors import UserError
from crystalframer.escaping import for_figures, shortened
from crystalframer.published import PUBLISHED, PublishedTask
from crystalframer.resolving import MODEL_PRESETS
from crystalframer.statistics import Spread

FRAME_LABELS: Mapping[FrameName, str] = {
    "none": "none (Crystalformer)",
    "pca": "PCA",
    "lattice": "lattice",
    "static_local": "static local",
    "weighted_pca": "weighted PCA",
    "max": "max",
}
"""What tables and figures call the frames, in the paper's order."""

AVERAGED_OVER = ("data.dataset", "data.task", "model.frame", "train.seed", "train.start_from", "train.start_hash")
"""Settings that never make a row of their own: what the table is of, its rows' frame, and what is averaged over. The
models that fine-tuning starts from differ by seed; what they learned from is the trials' tag ``start_data``."""

VARIES = "varies"
"""What `Comparison.common` returns for a setting that the trials do not share."""

ANGULAR = ("num_angl", "s_angl", "c_angl")
"""Settings without a meaning where there is no frame."""

ENCODING = tuple(sorted({key for differences in MODEL_PRESETS.values() for key in differences}))
"""Settings that presets set."""


@dataclass(frozen=True, eq=False)
class Row:
    """Trials that differ by their seed alone; none where nothing has finished yet."""

    frame: FrameName
    variant: str
    """Other settings that tell it from the comparison's other rows, such as ``cutoff 6.0``: as few as do."""
    shared: str
    """What all rows of the comparison have in common and its title says, such as ``lightweight``."""
    unnamed: str
    """Settings that vary with those, such as ``learning_rate 0.0012``; no more is needed to tell the rows apart."""
    model: ModelConfig
    """The trials' model, or what it would be where nothing has finished."""
    trials: tuple[FinishedTrial, ...]

    @property
    def label(self) -> str:
        """What the comparison's tables and figures call the row."""
        return ", ".join(filter(None, (FRAME_LABELS[self.frame], self.variant)))

    @property
    def setting(self) -> str:
        """What tells it from rows of other comparisons, too."""
        return ", ".join(filter(None, (self.shared, self.variant)))

    @property
    def name(self) -> str:
        """What it is called beside rows of other comparisons."""
        return ", ".join(filter(None, (FRAME_LABELS[self.frame], self.setting)))

    @property
    def test_mae(self) -> Spread:
        """Test MAE over seeds."""
        return Spread.of(trial.test_mae for trial in self.trials)

    @property
    def val_mae(self) -> Spread:
        """Validation MAE after the last epoch, over seeds."""
        return Spread.of(trial.val_mae for trial in self.trials)

    @property
    def baseline_mae(self) -> float:
        """Test MAE of predicting the training mean."""
        return fmean(trial.baseline_mae for trial in self.trials)

    @property
    def baseline_ratio(self) -> float:
        """MAE of predicting the training mean over the test MAE."""
        return self.baseline_mae / self.test_mae.mean

    @property
    def num_parameters(self) -> int:
        """Parameters of the model."""
        return self.trials[0].num_parameters

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs of all seeds."""
        return median(second for trial in self.trials for second in trial.history["seconds"])


@dataclass(frozen=True)
class Comparison:
    """One table: the rows of one task of one data set."""

    dataset: str
    task: str
    unit: str
    rows: tuple[Row, ...]
    part_of: str = ""
    """The published data set and task, ``jarvis:bandgap_mbj``, that it is or is a part of; empty for another."""
    transfer: bool = False
    """Whether the trials start from models of other targets: such errors stand beside no single-task ones."""

    @property
    def title(self) -> str:
        """What tables call it."""
        found = ", ".join(filter(None, (self.dataset, self.task, self.shared)))
        if self.transfer:
            return f"{found}, trained on from other models: not comparable with a single task's"
        return found + (f": {self.coverage}" if self.is_part else "")

    @property
    def shared(self) -> str:
        """What all its rows have in common and so their labels do not say, such as ``lightweight``."""
        return next((row.shared for row in self.rows), "")

    @property
    def is_part(self) -> bool:
        """Whether it is a user's own data set that is a part of a published one."""
        return bool(self.part_of) and self.part_of != f"{self.dataset}:{self.task}"

    @property
    def coverage(self) -> str:
        """Say how many crystals of the published split it has."""
        train, _, test = self.sizes
        if not (train.isdecimal() and test.isdecimal()):
            return f"a part of {self.part_of}"
        return f"{self._published.coverage(int(train), int(test))} of {self.part_of}"

    @property
    def same_test_set(self) -> bool:
        """Whether its test crystals are the published ones, or all but 1 %, so that published errors stand beside."""
        test = self.sizes[2]
        return bool(self.part_of) and (not test.isdecimal() or self._published.same_test_set(int(test)))

    @property
    def _published(self) -> PublishedTask:
        dataset, _, task = self.part_of.partition(":")
        return PUBLISHED[dataset].tasks[task]

    @property
    def heading(self) -> str:
        """What figures call it."""
        words = (self.dataset, self.quantity, self.shared, "trained on" * self.transfer)
        return for_figures(", ".join(filter(None, words)))

    @property
    def quantity(self) -> str:
        """The task in words."""
        return self.task.replace("_", " ")

    @property
    def labels(self) -> dict[str, object]:
        """What a record of it begins with."""
        return {"dataset": self.dataset, "task": self.task, "unit": self.unit}

    @property
    def file_name(self) -> str:
        """What files of it are called."""
        return shortened(re.sub(r"[^\w.-]", "_", f"{self.dataset}_{self.task}" + "_transfer" * self.transfer), 150)

    @property
    def finished(self) -> list[Row]:
        """The rows that have trials."""
        return [row for row in self.rows if row.trials]

    def of_lowest(self, most: int) -> "Comparison":
        """Return it with so many rows at most, those with the lowest test MAE; itself where it has no more."""
        if len(self.finished) <= most:
            return self
        kept = {id(row) for row in sorted(self.finished, key=lambda row: row.test_mae.mean)[:most]}
        return replace(self, rows=tuple(row for row in self.rows if id(row) in kept))

    @property
    def trials(self) -> list[FinishedTrial]:
        """Every trial that counts here."""
        return [trial for row in self.rows for trial in row.trials]

    @property
    def baseline_mae(self) -> float:
        """Test MAE of predicting the training mean."""
        return fmean(trial.baseline_mae for trial in self.trials)

    def common(self, setting: str) -> Any:
        """Return the value of a dotted setting that all trials share, or `VARIES`."""
        values = {trial.config.to_flat_dict()[setting] for trial in self.trials}
        return values.pop() if len(values) == 1 else VARIES

    def tag(self, name: str) -> str:
        """Return the values of a tag over the trials, joined by commas."""
        return ", ".join(sorted({trial.tags[name] for trial in self.trials if name in trial.tags}))

    @property
    def sizes(self) -> tuple[str, ...]:
        """Crystals of the training, validation and test set, as text."""
        found = [self.tag(f"num_{split}") or self.common(f"data.{split}_size") for split in SPLITS]
        return tuple("all" if size is None else str(size) for size in found)


@lru_cache(maxsize=8)
def compare(results: Results) -> list[Comparison]:
    """Group the trials by data set and task, sorted by name, those that start from another model by themselves.

    While trials of the sweep are missing, every frame that it asks for has a row, an empty one where nothing has
    finished.

    Raises:
        UserError: trials of one row were trained on different data.
    """
    groups: dict[tuple[str, str, bool], list[FinishedTrial]] = {}
    for trial in results.trials:
        data, transfer = trial.config.data, trial.config.train.start_from is not None
        groups.setdefault((data.dataset, data.task, transfer), []).append(trial)
    asked = () if results.complete else results.frames
    return [_comparison(*key, groups[key], asked, results.subsets) for key in sorted(groups)]


def _part_of(dataset: str, task: str, subsets: Mapping[str, Mapping[str, str]]) -> str:
    """Return the published data set and task that this is or is a part of, "" where it is another."""
    if dataset != "sample" and dataset in PUBLISHED and task in PUBLISHED[dataset].tasks:
        return f"{dataset}:{task}"
    return subsets.get(dataset, {}).get(task, "")


def _comparison(
    dataset: str,
    task: str,
    transfer: bool,
    trials: Sequence[FinishedTrial],
    asked: Collection[FrameName],
    subsets: Mapping[str, Mapping[str, str]],
) -> Comparison:
    flat = [trial.config.to_flat_dict() for trial in trials]
    varying = [key for key in flat[0] if key not in AVERAGED_OVER and len({settings[key] for settings in flat}) > 1]
    varying.sort(key=lambda key: not isinstance(flat[0][key], str))  # a word says more than a number
    by_settings: dict[tuple[FrameName, tuple[str, ...]], list[FinishedTrial]] = {}
    for trial in trials:
        by_settings.setdefault((trial.config.model.frame, _settings(trial, varying)), []).append(trial)
    telling = _telling({settings for _, settings in by_settings}, varying)
    shared = _shared([settings for _, settings in by_settings])
    rows: list[Row] = []
    for frame in FRAMES:
        rows_of_frame = [
            Row(frame, *_named(settings, telling, shared), found[0].config.model, _same_data(found))
            for (other, settings), found in by_settings.items()
            if other == frame
        ]
        rows += sorted(rows_of_frame, key=lambda row: in_order(row.variant))
        if not rows_of_frame and frame in asked:
            rows.append(Row(frame, "", ", ".join(shared), "", replace(_typical(trials), frame=frame), ()))
    part_of = "" if transfer else _part_of(dataset, task, subsets)
    return Comparison(dataset, task, trials[0].unit, tuple(rows), part_of, transfer)


def in_order(name: str) -> list[tuple[float, str]]:
    """Return what sorts names as people do: numbers by their value."""
    parts = re.split(r"(\d+\.?\d*(?:e-?\d+)?)", re.sub(r"(?<=\d),(?=\d{3})", "", name))
    return [(float(part), "") if place % 2 else (math.inf, part) for place, part in enumerate(parts)]


def _typical(trials: Sequence[FinishedTrial]) -> ModelConfig:
    """Return the model that a frame without trials would have: the paper's default setting if any trial has it."""
    models = [trial.config.model for trial in trials]
    return next((model for model in models if paper_setting(model) == "default"), models[0])


def _settings(trial: FinishedTrial, varying: Sequence[str]) -> tuple[str, ...]:
    """Return what tells a trial's row from others of its frame: a text for each varying setting, then two more.

    The last two are the preset of its encoding, which stands for the settings that it sets, and what it learned from
    before. A text is empty where there is nothing to say.
    """
    config = trial.config
    preset = encoding_preset(config.model)
    set_by_preset = ENCODING if preset else ANGULAR if config.model.frame == "none" else ()
    silent = {f"model.{name}" for name in set_by_preset}
    flat = config.to_flat_dict()
    started = config.train.start_from is not None
    return (
        *("" if key in silent else _said(key, flat[key]) for key in varying),
        "" if preset in (None, "default") else preset,
        f"from {trial.tags.get('start_data') or config.train.start_hash}" if started else "",
    )


def _said(key: str, value: Any) -> str:
    """Return a setting in words: ``train_size 250``, ``train_size all``."""
    if value is None:
        value = "all" if key.endswith("_size") else "none"
    return f"{key.partition('.')[2]} {value}"


def _telling(rows: Collection[tuple[str, ...]], varying: Sequence[str]) -> tuple[int, ...]:
    """Return the fewest places of rows' settings that tell the rows apart, beside the last two, which always are said.

    What is left unnamed follows from what is named.
    """
    places = range(len(varying))
    always = (len(varying), len(varying) + 1)
    subsets = chain.from_iterable(combinations(places, number) for number in range(len(places) + 1))
    return next(few for few in subsets if len({tuple(row[n] for n in (*few, *always)) for row in rows}) == len(rows))


def _shared(rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return what is said of all rows alike: of their encoding and of what they learned from before."""
    return tuple(text for text in rows[0][-2:] if text and all(text in row[-2:] for row in rows))


def _named(settings: tuple[str, ...], telling: tuple[int, ...], shared: tuple[str, ...]) -> tuple[str, str, str]:
    """Return the settings that name a row among its comparison's, those that all share, and the unnamed ones."""
    *varying, preset, start = settings
    named = [preset, *(varying[n] for n in telling), start]
    unnamed = [text for n, text in enumerate(varying) if n not in telling]
    own = [text for text in named if text not in shared]
    return ", ".join(filter(None, own)), ", ".join(shared), ", ".join(filter(None, unnamed))


def encoding_preset(model: ModelConfig) -> str | None:
    """Return the preset whose encoding settings a model has, None where it has others."""
    relevant = [key for key in ENCODING if model.frame != "none" or key not in ANGULAR]
    for name, differences in MODEL_PRESETS.items():
        preset = replace(ModelConfig(), **differences)
        if all(getattr(model, key) == getattr(preset, key) for key in relevant):
            return name
    return None


def paper_setting(model: ModelConfig) -> str | None:
    """Return the preset a model follows in all but frame, number of blocks and cutoff; None: it is not the paper's."""
    default = replace(ModelConfig(), frame=model.frame, num_blocks=model.num_blocks, cutoff=model.cutoff)
    same = replace(model, **{key: getattr(default, key) for key in ENCODING}) == default
    return encoding_preset(model) if same else None


def _same_data(trials: list[FinishedTrial]) -> tuple[FinishedTrial, ...]:
    if len({trial.tags.get("dataset_fingerprint") for trial in trials}) > 1:
        names = ", ".join(trial.run_key for trial in trials)
        raise UserError(
            f"these trials differ by their seed alone but were trained on different data: {names}; "
            "run the sweep again, which repeats the ones whose data have changed"
        )
    return tuple(trials)
