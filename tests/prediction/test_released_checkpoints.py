"""The authors' checkpoints: converted, they predict what their own implementation does; other files are refused."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalframer.data.batch import collate
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.prediction.released_checkpoints import convert_official
from crystalframer.training.trained_model import TrainedModel, load_model, write_model

Change = Callable[[Callable[[dict[str, Any]], object]], Path]
TOLERANCE = 2e-5
"""eV/atom; the released kernels cut their Gaussians."""


def predicted(trained: TrainedModel, structures: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    cutoff = trained.trial.model.cutoff
    crystals = [Crystal(s["lattice"], s["frac_coords"], np.array(s["atomic_numbers"]), s["name"]) for s in structures]
    with torch.no_grad():
        outputs = trained.model(collate([prepare_geometry(crystal, cutoff) for crystal in crystals], cutoff))
    return trained.restore(outputs.double().numpy())[:, 0]


@pytest.fixture
def official(shared: Path) -> Path:
    return shared / "golden" / "official_style_none.ckpt"


@pytest.fixture
def change(official: Path, tmp_path: Path) -> Change:
    """Return a function that writes a changed copy of a checkpoint."""

    def write(mutate: Callable[[dict[str, Any]], object]) -> Path:
        content = torch.load(official, weights_only=True)
        mutate(content)
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return write


@pytest.mark.parametrize("weights", ["averaged", "plain"])
@pytest.mark.parametrize("frame", ["max", "none"])
def test_predictions_are_those_of_the_released_implementation(
    shared: Path, tmp_path: Path, frame: str, weights: str
) -> None:
    given = json.loads((shared / "golden" / f"official_style_{frame}_expected.json").read_text())
    structures = [s for s in given["structures"] if s["name"] != "unwrapped4"]  # the released grid is off there
    source = shared / "golden" / f"official_style_{frame}.ckpt"
    converted = convert_official(source, weights="plain" if weights == "plain" else None)
    write_model(tmp_path / "model.pt", converted)
    trained = load_model(tmp_path / "model.pt")
    key = "expected_f64" if weights == "averaged" else "expected_model_weights_f64"
    tolerance = [2e-3 if (frame, s["name"]) == ("max", "thin7") else TOLERANCE for s in structures]  # an exact tie
    error = np.abs(predicted(trained, structures) - [s[key] for s in structures])
    assert (error < tolerance).all()
    assert trained.trial.model.frame == frame
    assert (trained.task, trained.unit, trained.averaged) == ("formation_energy", "eV/atom", weights == "averaged")
    assert trained.targets[0].mean == pytest.approx(given["target_mean"])
    assert len(error) == 10


def test_coefficients_come_from_the_file(shared: Path, tmp_path: Path) -> None:
    content = torch.load(shared / "golden" / "official_style_max.ckpt", weights_only=True)
    content["hyper_parameters"] |= {"value_pe_dist_coef": 1.5, "value_pe_angle_coef": 6.0, "value_pe_angle_wscale": 1.0}
    torch.save(content, tmp_path / "other.ckpt")
    model = convert_official(tmp_path / "other.ckpt", cutoff=6.0, task="energy", unit="eV").trial.model
    assert (model.c_dist, model.c_angl, model.s_angl, model.cutoff) == (1.5, 6.0, 1.0, 6.0)
    assert (model.num_blocks, model.width, model.num_heads, model.r_max) == (4, 128, 8, 14.0)


def test_without_averaged_steps_the_plain_weights_are_taken(
    change: Change,
) -> None:
    path = change(lambda content: content["state_dict"]["swa_model.n_averaged"].zero_())
    assert not convert_official(path).averaged
    with pytest.raises(UserError, match=r"no averaged weights .* --weights plain"):
        convert_official(path, weights="averaged")


@pytest.mark.parametrize(
    ("mutate", "problem"),
    [
        (lambda c: c.pop("hyper_parameters"), "has no hyper_parameters, expected a checkpoint of the authors'"),
        (lambda c: c["hyper_parameters"].update(domain="multihead"), "domain = 'multihead', which is not implemented"),
        (lambda c: c["hyper_parameters"].update(frame_method="mux", value_pe_angle_real=64), "frame_method 'mux'"),
        (lambda c: c["hyper_parameters"].update(gauss_lb_real="low"), "gauss_lb_real is 'low', expected a number"),
        (lambda c: c["hyper_parameters"].update(targets="spin"), "'spin', whose unit is not known here"),
        (lambda c: c["state_dict"].pop("target_std"), "no single finite target_std"),
        (lambda c: c["state_dict"].pop("swa_model.module.mlp.0.bias"), "lacks a weight"),
        (lambda c: c["state_dict"].update({"swa_model.module.mlp.0.bias": torch.zeros(3)}), "do not fit"),
        (lambda c: c["state_dict"]["swa_model.module.mlp.0.bias"].fill_(float("nan")), "not finite"),
        (lambda c: c.update(state_dict={"encoder": torch.zeros(3)}), "Lightning checkpoint of another program"),
        (lambda c: c.update(state_dict={"encoder": "no tensor"}), "not made of named tensors"),
    ],
)
def test_what_cannot_be_converted_is_one_clear_sentence(
    change: Change,
    mutate: Callable[[dict[str, Any]], object],
    problem: str,
) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        convert_official(change(mutate))


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_foreign_damaged_and_malicious_files_are_refused(official: Path, tmp_path: Path) -> None:
    evil, short, text, tensor = (tmp_path / name for name in ("evil.ckpt", "short.ckpt", "text.ckpt", "tensor.ckpt"))
    torch.save({"state_dict": Malicious(tmp_path / "executed"), "hyper_parameters": {}}, evil)
    short.write_bytes(official.read_bytes()[:100_000])
    text.write_text("weights\n")
    torch.save(torch.zeros(3), tensor)
    for path in (evil, short, text):
        with pytest.raises(UserError, match="is not a checkpoint, or it is damaged"):
            convert_official(path)
    with pytest.raises(UserError, match="holds a Tensor, expected a checkpoint of the authors'"):
        convert_official(tensor)
    assert not (tmp_path / "executed").exists()


def test_loading_an_unconverted_file_says_how_to_convert_it(official: Path) -> None:
    with pytest.raises(UserError, match="crystalframer convert"):
        load_model(official)
