"""The pages on models and on Python run from top to bottom, as a notebook would."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import crystalframer as cf
from crystalframer.errors import UserError
from crystalframer.pretrained.listing import add_to_list, read_list
from tests.fixtures.own_data import alignn_folder, small_crystals
from tests.pretrained.conftest import SETTINGS


def test_the_page_runs(root: Path, packed_folder: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (root / "docs" / "models.md").read_text(encoding="utf-8")
    (name,) = set(re.findall(r'cf\.load\("([^"]+)"\)', text))
    own_folder.mkdir(parents=True)
    (own_folder / "single.pt").symlink_to(packed_folder / "single.pt")
    add_to_list(own_folder, name, read_list(packed_folder)["single"])
    namespace: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/models.md", "exec"), namespace)
    assert f"{name}: formation_energy" in capsys.readouterr().out
    frame = namespace["frame"]
    assert frame["gap"].notna().all()  # type: ignore[index]


def test_the_page_on_python_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (root / "docs" / "python.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), namespace)
    printed = capsys.readouterr().out
    tuned, model = namespace["tuned"], namespace["model"]
    assert f"use: {tuned.best}, whose validation error is smallest" in printed
    assert tuned.table["model"].tolist()[-1] == "fine-tuned, seed 0"
    assert f"<p>use: {tuned.best}," in tuned._repr_html_()
    assert namespace["better"].predictor.names == ("bulk_modulus",)
    assert namespace["table"]["prediction"].notna().all()
    assert namespace["vectors"].shape == (1, 32)
    assert namespace["ridge"].predict(namespace["model"].embed(namespace["salts"])).shape == (8,)
    again = cf.train("sample", task="bandgap", settings=namespace["quick"], out="runs/single/first")
    assert "epoch" not in capsys.readouterr().out  # it was trained already
    pd.testing.assert_frame_equal(again.predict([namespace["salt"]]), model.predict([namespace["salt"]]))
    with pytest.raises(UserError, match=r"did you mean 'train\.epochs'"):
        cf.train(settings={"train.epoch": 3})


def test_python_trains_on_a_folder_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = alignn_folder(tmp_path / "mine", small_crystals(40))
    settings = {key: value for key, value in SETTINGS.items() if key.startswith("model.")}
    model = cf.train(folder, folder / "id_prop.csv", settings={**settings, "train.epochs": 2})
    assert model.files == (tmp_path / "runs" / "single" / "mine-id_prop-target" / "model.pt",)
    assert (model.files[0].parent / "report.html").is_file()
