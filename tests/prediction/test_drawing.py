"""The picture of an atom's frame and attention."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from crystalframer import cli
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.pictures.attention_drawing import FAINTEST, flat, turning
from crystalframer.pictures.palette import AXES
from crystalframer.prediction.explain import attention_of
from tests.fixtures.crystals import generic_crystal
from tests.fixtures.models import loud_model, small_config


def test_the_picture_shows_the_heads_weights_and_frame() -> None:
    view = attention_of(loud_model(small_config("max")), generic_crystal(1, num_atoms=4))
    shown = view.around(atom=2, head=1)
    entries = view.entries(2)
    near = view.distance[entries] <= 5.0
    assert np.array_equal(shown.weights, view.weights[entries, 1][near])
    assert not shown.positions[0].any()
    assert shown.opacity[1:].max() == 1.0
    assert shown.opacity[1:].argmax() == shown.weights[1:].argmax()
    assert (shown.opacity >= FAINTEST).all()
    assert view.frames is not None
    assert shown.frame is not None
    assert np.array_equal(shown.frame, view.frames[2, 1])
    figure = flat(shown)
    assert len(figure.axes[0].patches) == len(shown.positions)
    names = {text.get_text(): text.get_color() for text in figure.texts}
    assert [names[axis] for axis in ("e₁", "e₂", "e₃")] == list(AXES)
    (elements,) = figure.legends
    assert {text.get_text() for text in elements.get_texts()} == {ELEMENTS[z - 1] for z in shown.numbers}
    tips = axes_of(turning(shown))
    assert np.allclose(tips["e1"] / np.linalg.norm(tips["e1"]), shown.frame[0], atol=1e-4)


def axes_of(figure: Any) -> dict[str, NDArray[np.float64]]:
    """The tips of a turning picture's axes."""
    lines = [trace for trace in figure.data if trace.name in ("e1", "e2", "e3")]
    return {line.name: np.array([line.x[1], line.y[1], line.z[1]]) for line in lines}


def test_without_frames_there_are_no_arrows() -> None:
    view = attention_of(loud_model(small_config("none")), generic_crystal(1, num_atoms=4))
    shown = view.around(atom=0, head=0)
    assert shown.frame is None
    assert not any("e₁" in text.get_text() for text in flat(shown).texts)
    assert axes_of(turning(shown)) == {}


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("html", b"<!doctype html>")])
def test_the_command_writes_it(
    model_file: Path, cif_folder: Path, tmp_path: Path, suffix: str, magic: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / f"figure.{suffix}"
    command = ["predict", str(model_file), str(cif_folder / "c03.cif"), "--explain", str(figure)]
    assert cli.main([*command, "--atom", "1", "--block", "1", "--head", "1"]) == 0
    assert "(atom 1) in c03, block 1, head 1, σ = " in capsys.readouterr().out
    assert figure.read_bytes().startswith(magic)
    if suffix == "png":
        from matplotlib.image import imread

        pixels = imread(figure)[..., :3].reshape(-1, 3)
        for colour in AXES:
            assert (np.abs(pixels - to_rgb(colour)).max(axis=1) < 0.02).sum() > 50


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--explain", "figure.jpg"], "expected one of .png, .pdf, .svg, .html"),
        (["--explain", "{folder}/f.png", "--atom", "99"], "got atom 99, expected 0 to"),
        (["--explain", "{folder}/f.png", "--block", "2"], "got block 2, expected 0 to 1"),
        (["--explain", "{folder}/f.png", "--head", "-1"], "got head -1, expected 0 to 1"),
    ],
)
def test_what_is_not_there_is_refused(
    model_file: Path, cif_folder: Path, tmp_path: Path, arguments: list[str], problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    filled = [argument.format(folder=tmp_path) for argument in arguments]
    assert cli.main(["predict", str(model_file), str(cif_folder / "c03.cif"), *filled]) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.glob("f.*"))
