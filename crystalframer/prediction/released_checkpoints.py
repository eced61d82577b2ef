"""The authors' released checkpoints (Lightning files) as models of ours.

Architecture, encodings and normalisation come from the file's ``hyper_parameters`` and ``state_dict``. What this
program does not implement (reciprocal space, other norms or pooling) is refused, never approximated.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from crystalframer.config import FRAMES, FrameName, TrialConfig
from crystalframer.errors import UserError
from crystalframer.nn.released_names import from_official_state, with_sizes_of
from crystalframer.published import PUBLISHED
from crystalframer.resolving import build_trial
from crystalframer.training.metrics import Target
from crystalframer.training.safe_files import read_archive
from crystalframer.training.trained_model import TrainedModel, build_model

Weights = Literal["averaged", "plain"]
AVERAGED, PLAIN = "swa_model.module.", "model."

_FRAMES: dict[str, FrameName] = {
    **{name: name for name in FRAMES},
    "no": "none",
    "max_static": "static_local",
    "static": "static_local",
}
"""Our name of each released frame method."""
_FIXED: dict[str, tuple[Any, ...]] = {
    "domain": ("real",),
    "encoder_name": ("latticeformer",),
    "pooling": ("avr",),
    "pre_pooling_op": ("no",),
    "norm_type": ("no",),
    "t_activation": ("relu",),
    "gauss_state": ("q",),
    "normalize_gauss": (True,),
    "use_cgcnn_feat": (False,),
    "value_pe_dist_reci": (0,),
    "value_pe_wave_real": (0,),
    "value_pe_wave_reci": (0,),
    "cos_abs": (0, False),
}
"""Settings that have one meaning here, and the values that mean it; a file that lacks one means it too."""
_UNITS = PUBLISHED["oqmd"].units | PUBLISHED["mp"].units | PUBLISHED["jarvis"].units
"""Unit by task; `jarvis` decides where they differ."""
_TASKS = {
    **{field: task for source in PUBLISHED.values() for task, field in source.fields.items()},
    "bulk_modulus": "bulk_modulus",
    "bulk modulus": "bulk_modulus",
    "shear_modulus": "shear_modulus",
    "shear modulus": "shear_modulus",
}
"""Our name of each target in the published sources."""


def convert_official(
    path: Path,
    *,
    weights: Weights | None = None,
    cutoff: float | None = None,
    task: str | None = None,
    unit: str | None = None,
) -> TrainedModel:
    """Read one of the authors' checkpoints.

    Args:
        path: the Lightning file.
        weights: the averaged or the plain weights; None: averaged unless none were averaged.
        cutoff: radius of the neighbour sphere in Å, the default setting's if None (the released code has none).
        task: name of the target, the file's if None.
        unit: its unit, the published one of that target if None.

    Raises:
        UserError: the file is missing, damaged, foreign, or needs something that is not implemented here.
    """
    content = _content(path)
    settings, state = content["hyper_parameters"], content["state_dict"]
    averaged, prefix = _chosen_weights(path, state, weights)
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    trial = _trial(path, settings, own, cutoff)
    try:
        ours = from_official_state(own, trial.model)
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"{path} lacks a weight or has one of another shape: {error}; use another copy") from error
    target = _target(path, settings, state, task, unit)
    return TrainedModel(
        model=build_model(path, trial, ours),
        trial=dataclasses.replace(trial, data=dataclasses.replace(trial.data, task=target.name)),
        targets=(target,),
        epoch=_whole(content.get("epoch", 0)),
        averaged=averaged,
        origin=f"converted from a checkpoint of the authors' implementation ({path.name})",
    )


def _content(path: Path) -> dict[str, Any]:
    content = read_archive(path)
    expected = "a checkpoint of the authors' (a Lightning file with state_dict and hyper_parameters)"
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected {expected}")
    if str(content.get("format", "")).startswith("crystalframer"):
        raise UserError(f"{path} is a file of this program already: predict with it as it is")
    for part in ("state_dict", "hyper_parameters"):
        if not isinstance(content.get(part), Mapping):
            raise UserError(f"{path} has no {part}, expected {expected}")
    state = content["state_dict"]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise UserError(f"{path} has a state_dict that is not made of named tensors, expected {expected}")
    if PLAIN + "input_embeddings.weight" not in state:
        raise UserError(f"{path} is a Lightning checkpoint of another program: it lacks {PLAIN}input_embeddings.weight")
    return content


def _chosen_weights(path: Path, state: Mapping[str, Tensor], weights: Weights | None) -> tuple[bool, str]:
    """Return whether the averaged weights are taken, and the prefix of their names."""
    steps = state.get("swa_model.n_averaged")
    has_average = steps is not None and int(steps) > 0 and AVERAGED + "input_embeddings.weight" in state
    if weights == "averaged" and not has_average:
        raise UserError(f"{path} holds no averaged weights (none were averaged yet): take --weights plain")
    averaged = has_average if weights is None else weights == "averaged"
    return averaged, AVERAGED if averaged else PLAIN


def _trial(path: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor], cutoff: float | None) -> TrialConfig:
    """Return the settings in our terms; sizes are those of the weights."""
    for name, allowed in _FIXED.items():
        if name in settings and settings[name] not in allowed:
            raise UserError(
                f"{path} was trained with {name} = {settings[name]!r}, which is not implemented here; "
                f"expected {allowed[0]!r}"
            )
    r_0 = _number(path, settings, "scale_real", 1.4)
    r_max = _number(path, settings, "value_pe_dist_max", -10.0)
    frame = _frame(path, settings)
    model: dict[str, Any] = {
        "frame": frame,
        "r_0": r_0,
        "rho_floor": _number(path, settings, "gauss_lb_real", 0.5),
        "rho_slope": _number(path, settings, "positive_func_beta", 0.1),
        "r_max": r_max if r_max > 0 else -r_max * r_0,
        "num_dist": int(_number(path, settings, "value_pe_dist_real", 64)),
        "s_dist": _number(path, settings, "value_pe_dist_wscale", 1.0),
        "c_dist": _number(path, settings, "value_pe_dist_coef", 1.0),
    }
    if settings.get("frame_method") == "no":
        model["c_dist"] = 1.0  # the released code leaves the coefficient out there
    if frame != "none":
        model["num_angl"] = int(_number(path, settings, "value_pe_angle_real", 64))
        model["s_angl"] = _number(path, settings, "value_pe_angle_wscale", 4.0)
        model["c_angl"] = _number(path, settings, "value_pe_angle_coef", 1.0)
    if cutoff is not None:
        model["cutoff"] = cutoff
    overrides = {f"model.{key}": value for key, value in model.items()}
    overrides |= {f"train.{key}": value for key, value in _training(path, settings).items()}
    overrides["data.dataset"] = _dataset(str(settings.get("target_set", "unknown")))
    trial = build_trial(overrides)
    try:
        return dataclasses.replace(trial, model=with_sizes_of(trial.model, state))
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path} lacks a weight or has one of another shape ({error}); use another copy") from error


def _training(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return how it was trained, as far as the file says so; for information."""
    names = {"epochs": "n_epochs", "batch_size": "batch_size", "average_epochs": "swa_epochs", "seed": "seed"}
    found: dict[str, Any] = {
        ours: int(_number(path, settings, theirs)) for ours, theirs in names.items() if theirs in settings
    }
    found |= {
        ours: _number(path, settings, theirs)
        for ours, theirs in {"learning_rate": "lr", "weight_decay": "weight_decay", "clip_norm": "clip_norm"}.items()
        if theirs in settings
    }
    if "sch_params" in settings:
        found["decay_steps"] = _number(path, settings, "sch_params")
    if "average_epochs" in found and "epochs" in found:
        found["average_epochs"] = min(found["average_epochs"], found["epochs"])
    return found


def _frame(path: Path, settings: Mapping[str, Any]) -> FrameName:
    method = str(settings.get("frame_method", "no"))
    if method not in _FRAMES:
        raise UserError(f"{path} was trained with frame_method {method!r}; expected one of {', '.join(_FRAMES)}")
    return _FRAMES[method] if _number(path, settings, "value_pe_angle_real", 0) > 0 else "none"


def _dataset(target_set: str) -> str:
    """Return our name of a published data set, or theirs."""
    if "megnet" in target_set:
        return "mp"
    if "oqmd" in target_set:
        return "oqmd"
    return "jarvis" if "dft_3d" in target_set or "jarvis" in target_set else target_set


def _target(
    path: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor], task: str | None, unit: str | None
) -> Target:
    given = settings.get("targets", "target")
    theirs = str(given[0] if isinstance(given, list | tuple) and given else given)
    name = task or _TASKS.get(theirs, "_".join(theirs.replace(",", " ").split()))
    if unit is None and name not in _UNITS:
        raise UserError(f"{path} predicts {theirs!r}, whose unit is not known here: give it with --unit")
    values = []
    for part in ("target_mean", "target_std"):
        value = state.get(part)
        if value is None or value.numel() != 1 or not bool(torch.isfinite(value).all()):
            raise UserError(f"{path} has no single finite {part}, which its predictions need; use another copy")
        values.append(float(value))
    return Target(name, unit or _UNITS[name], mean=values[0], std=values[1])


def _number(path: Path, settings: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Return a setting that is a number, or a list of one number."""
    value = settings.get(name, default)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{path}: setting {name} is {value!r}, expected a number")
    return float(value)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
