"""Models by name: found, checked against their SHA-256, fetched from an address; damage gets one sentence."""

import dataclasses
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalframer import cli
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.prediction import load_predictor
from crystalframer.prediction.loading import read_model
from crystalframer.prediction.packed import Example, is_packed, write_packed
from crystalframer.pretrained.listing import (
    LIST,
    PACKAGE,
    add_to_list,
    find_model,
    listed_models,
    model_paths,
    models_table,
    own_folder,
    read_list,
)
from crystalframer.training.safe_files import read_archive
from tests.fixtures.file_server import serve


def test_the_list_of_the_package_fits_its_files() -> None:
    entries = read_list(PACKAGE)
    assert {path.name for path in PACKAGE.glob("*.pt")} == {entry.file for entry in entries.values() if entry.file}
    for name in entries:
        assert is_packed(read_archive(find_model(name)))
    assert sum(entry.bytes for entry in entries.values() if entry.file) < 25e6


def test_a_name_is_found_and_a_path_comes_first(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_paths("single") == [own_folder() / "single.pt"]
    monkeypatch.chdir(tmp_path)
    shutil.copy(packed / "both.pt", tmp_path / "single")
    assert model_paths("single") == [Path("single")]


def test_an_unknown_name_gets_near_matches(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "singel", "some.cif"]) == 2
    error = capsys.readouterr().err
    assert "there is no model 'singel' (did you mean 'single'?); give a name that `crystalframer models` lists" in error


def test_another_file_than_the_listed_one_is_refused(packed: Path, own_folder: Path) -> None:
    own_folder.unlink()
    shutil.copytree(packed, own_folder)
    shutil.copy(packed / "both.pt", own_folder / "single.pt")
    with pytest.raises(
        UserError, match=r"is not the file of model 'single' that was listed: got SHA-256 [0-9a-f]{16}…"
    ):
        find_model("single")
    (own_folder / "single.pt").unlink()
    with pytest.raises(UserError, match="the file of model 'single' is missing: expected"):
        find_model("single")


def test_a_file_elsewhere_is_not_a_file_beside_the_list(packed_folder: Path, own_folder: Path) -> None:
    own_folder.mkdir(parents=True)
    shutil.copy(packed_folder / "single.pt", own_folder.parent / "single.pt")
    entry = read_list(packed_folder)["single"]
    add_to_list(own_folder, "outside", dataclasses.replace(entry, file="../single.pt"))
    with pytest.raises(UserError, match="the file of model 'outside' is missing"):
        find_model("outside")


def test_a_model_at_an_address_is_fetched_once_and_checked(packed_folder: Path, own_folder: Path) -> None:
    content = (packed_folder / "single.pt").read_bytes()
    entry = read_list(packed_folder)["single"]
    own_folder.mkdir(parents=True)
    with serve() as server:
        server.files |= {"/single.pt": content, "/other.pt": content[:-1] + b"!"}
        for name in ("single", "other"):
            add_to_list(own_folder, name, dataclasses.replace(entry, file="", url=f"{server.address}/{name}.pt"))
        path = find_model("single")
        assert path.read_bytes() == content
        assert find_model("single") == path
        assert len(server.requests) == 1
        with pytest.raises(UserError, match="SHA-256"):
            find_model("other")
        assert [found.name for found in path.parent.glob("*.pt")] == [path.name]
    assert load_predictor(*model_paths("single")).units == ("eV/atom",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "the file: Invalid JSON"),
        ('{"models": {"mine": {}}}', "models.mine.targets: Field required"),
        ('{"models": [], "code": 1}', "models: Input should be"),
    ],
)
def test_a_damaged_list_gets_one_sentence(text: str, problem: str, own_folder: Path) -> None:
    own_folder.mkdir(parents=True)
    (own_folder / LIST).write_text(text)
    with pytest.raises(UserError, match=r"the list of models .*models\.json is damaged") as caught:
        listed_models()
    assert problem in str(caught.value)


def test_the_table_names_what_a_reader_must_know(packed: Path) -> None:
    assert len(listed_models()) >= 2
    line = next(line for line in models_table().splitlines() if line.startswith("single: "))
    assert "formation_energy [eV/atom], test MAE " in line
    assert "the 90 % interval holds " in line


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


def test_reading_a_packed_model_runs_no_code(packed_folder: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(packed_folder / "single.pt") as source, zipfile.ZipFile(evil, "w") as target:
        for item in source.infolist():
            content = pickle.dumps(Evil(), protocol=2) if item.filename.endswith("/data.pkl") else source.read(item)
            target.writestr(item, content)
    with pytest.raises(UserError, match="damaged"):
        read_model(evil)


def test_damage_gets_one_sentence(packed_folder: Path, tmp_path: Path) -> None:
    content = (packed_folder / "single.pt").read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_model(cut)
    parts = torch.load(packed_folder / "single.pt", weights_only=True)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"version": 2}, "format version 2, expected 1"),
        ({"format": "else"}, "is not a checkpoint of this program"),
        ({"members": [{}]}, "lacks a part"),
        ({"members": [{**parts["members"][0], "model": {}}]}, "do not fit its settings"),
        ({"calibration": {"domain": {}}}, "lacks a part"),
    ]
    for change, problem in changes:
        torch.save({**parts, **change}, cut)
        with pytest.raises(UserError, match=problem):
            read_model(cut)


def test_a_model_that_no_longer_predicts_its_example_is_refused(packed_folder: Path, tmp_path: Path) -> None:
    packed = read_model(packed_folder / "single.pt")
    assert packed.example is not None
    write_packed(tmp_path / "same.pt", packed)
    load_predictor(tmp_path / "same.pt")
    wrong = Example(packed.example.crystal, (packed.example.predictions[0] + 0.1,))
    write_packed(tmp_path / "wrong.pt", dataclasses.replace(packed, example=wrong))
    with pytest.raises(UserError, match=r"predicts \S+ eV/atom for its example .*, expected"):
        load_predictor(tmp_path / "wrong.pt")


def test_packing_twice_changes_nothing(packed_folder: Path, tmp_path: Path) -> None:
    packed = read_model(packed_folder / "both.pt")
    write_packed(tmp_path / "again.pt", packed)
    again = read_model(tmp_path / "again.pt")
    crystal = Crystal(4 * np.eye(3), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), np.array([55, 17]))
    one, two = (load_predictor(path).predict(crystal) for path in (packed_folder / "both.pt", tmp_path / "again.pt"))
    assert one.values == pytest.approx(two.values, abs=1e-4)
    assert again.curves == packed.curves
    assert json.dumps(again.about) == json.dumps(packed.about)
