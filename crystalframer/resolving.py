"""From what a user wrote to a trial: presets, dotted settings, numbers given as text.

Presets are differences to the defaults of `config.py`; YAML files and dotted overrides are differences to a preset.
`build_trial` is the only way from dotted settings to a `TrialConfig`, and it is strict: an unknown key or a value of
the wrong type is a `UserError` that names the near matches.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pydantic

from crystalframer.atomic_files import sha256_of
from crystalframer.config import DataConfig, ModelConfig, TrainConfig, TrialConfig
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED
from crystalframer.validation import number, quote, sentence, unknown

_LIGHTWEIGHT: dict[str, Any] = {"num_angl": 16, "s_angl": 1.0, "c_dist": 1.5, "c_angl": 6.0}
MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "default": {key: getattr(ModelConfig, key) for key in _LIGHTWEIGHT},
    "lightweight": _LIGHTWEIGHT,
}
"""The paper's two settings of the angular encoding, each in full: chosen by name it replaces a training preset's."""

_QUICK = {
    "epochs": 30,
    "batch_size": 64,
    "schedule": "one_cycle",
    "learning_rate": 1.5e-3,
}
_LIGHT_5A = {**_LIGHTWEIGHT, "cutoff": 5.0}

TRAIN_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    **{name: {"train": dict(published.training)} for name, published in PUBLISHED.items() if published.training},
    "quick": {"model": _LIGHT_5A, "train": _QUICK},
    # the rate of quick rises again in some of the seeds when it is kept up for so long
    "thorough": {"model": _LIGHT_5A, "train": {**_QUICK, "epochs": 90, "learning_rate": 7.5e-4}},
}
"""Published training lengths per data set, and trainings of minutes and of half an hour with the model for them, as
differences to `ModelConfig` and `TrainConfig`."""

_PRESETS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "train": TRAIN_PRESETS,
    "model": {name: {"model": differences} for name, differences in MODEL_PRESETS.items()},
}
_ADAPTER = pydantic.TypeAdapter(TrialConfig)
SETTINGS = (*TrialConfig().to_flat_dict(), *(f"{section}.preset" for section in _PRESETS))
"""Every dotted key a trial has, and the two preset keys."""


def _holds_numbers(kind: Any) -> bool:
    return kind in (int, float) or any(map(_holds_numbers, get_args(kind)))


_NUMBERS = {
    f"{section}.{name}"
    for section, part in (("data", DataConfig), ("model", ModelConfig), ("train", TrainConfig))
    for name, kind in get_type_hints(part).items()
    if _holds_numbers(kind)
}
"""The dotted keys of settings that are numbers, or may be one."""


def setting_value(key: str, value: Any) -> Any:
    """Return what a value in a file or on a command line stands for: a number where the setting is one."""
    if key not in _NUMBERS:
        return value
    return [number(one) for one in value] if isinstance(value, list) else number(value)


def build_trial(overrides: Mapping[str, Any]) -> TrialConfig:
    """Resolve dotted settings into a trial.

    Args:
        overrides: values by dotted key, e.g. ``{"model.frame": "max", "train.preset": "jarvis"}``. Presets are
            applied first, whatever the order, that of the training before that of the model; other keys are
            differences to them.

    Returns:
        The trial, every default filled in, as many outputs as tasks, and the hash of the file to start from.

    Raises:
        UserError: a key is unknown (near matches are listed), a value has the wrong type or range, or the file to
            start from cannot be read.
    """
    nested: dict[str, dict[str, Any]] = {"data": {}, "model": {}, "train": {}}
    for key in overrides:
        if key not in SETTINGS:
            raise UserError(unknown("setting", key, SETTINGS))
    for chosen, presets in _PRESETS.items():
        name = overrides.get(f"{chosen}.preset")
        if name is not None:
            if name not in list(presets):
                raise UserError(unknown(f"{chosen}.preset", name, presets))
            for section, differences in presets[name].items():
                nested[section].update(differences)
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if name != "preset":
            nested[section][name] = value
    _resolve(nested["data"], nested["model"], nested["train"])
    if "train.average_epochs" not in overrides:
        _shorten_averaging(nested["train"])
    return trial_from_dict(nested)


def _resolve(data: dict[str, Any], model: dict[str, Any], train: dict[str, Any]) -> None:
    """Fill in what follows from other settings."""
    tasks = data.get("task", DataConfig.task)
    if isinstance(tasks, list | tuple):
        data["task"] = tasks = ",".join(map(str, tasks))
    if isinstance(tasks, str):
        model.setdefault("num_targets", tasks.count(",") + 1)
    path = train.get("start_from")
    if isinstance(path, str) and train.get("start_hash") is None:
        train["start_hash"] = file_hash(Path(path))


def _shorten_averaging(train: dict[str, Any]) -> None:
    """Average over a fifth of the epochs where there are fewer than would be averaged over, or time decides.

    Nothing is averaged where the rate falls to nothing.
    """
    if train.get("schedule") == "one_cycle":
        train["average_epochs"] = 0
        return
    epochs = number(train.get("epochs", TrainConfig.epochs))
    most = math.inf if train.get("minutes") is not None else train.get("average_epochs", TrainConfig.average_epochs)
    if isinstance(epochs, int) and 1 <= epochs < most:
        train["average_epochs"] = epochs // 5


def file_hash(path: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file."""
    try:
        return sha256_of(path)[:16]
    except OSError as error:
        raise UserError(
            f"setting 'train.start_from': cannot read {quote(str(path))} ({error.strerror}); give a checkpoint's path"
        ) from error


def trial_from_dict(settings: Mapping[str, Any], source: Path | None = None) -> TrialConfig:
    """Build a trial from nested settings, as `TrialConfig.to_dict` writes them.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or range; it names the file they are from, if any.
    """
    try:
        return _ADAPTER.validate_json(json.dumps(settings, default=quote))
    except pydantic.ValidationError as error:
        origin = "" if source is None else f"{source}: "
        raise UserError(origin + sentence(error, "setting {!r}".format, _unknown_key)) from error


def _unknown_key(parts: list[str]) -> str:
    return unknown("setting", ".".join(parts), SETTINGS)
