"""A folder and a spreadsheet become a model and a page, in one command that resumes."""

import re
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

import crystalframer as cf
from crystalframer import cli
from crystalframer.config import DataConfig
from crystalframer.data.registry import load_task
from crystalframer.runs.run_directory import RunDirectory
from tests.fixtures.own_data import energy, poscar, small_crystals
from tests.pretrained.conftest import SETTINGS

TINY = [f"{key}={value}" for key, value in SETTINGS.items() if key.startswith("model.")]
TINY = [word for setting in [*TINY, "train.epochs=3", "train.batch_size=8"] for word in ("--set", setting)]


def mine(folder: Path, count: int, *, split: bool) -> tuple[Path, Path]:
    """Write crystals and their spreadsheet: the first two rows open, one of no crystal, and a crystal of no row."""
    crystals = small_crystals(count)
    folder.mkdir()
    for crystal in crystals:
        (folder / f"{crystal.id}.vasp").write_text(poscar(crystal), encoding="utf-8")
    book = openpyxl.Workbook()
    page = book.worksheets[0]
    page.append(["name", "hardness (GPa)", *(["split"] if split else []), "colour"])
    for place, crystal in enumerate(crystals[:-1]):
        part = ["val", "test", "train"][min(2, place // 22)]
        value = None if place in (0, 1) else energy(crystal)
        page.append([crystal.id, value, *([part] if split else []), "<b>grey & dull</b>"])
    page.append(["nowhere", 1.0, *(["train"] if split else []), "blue"])
    book.save(folder.parent / "data.xlsx")
    return folder, folder.parent / "data.xlsx"


def test_one_command_leaves_a_page_and_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, table = mine(tmp_path / "my_crystals", 75, split=True)
    command = ["train", str(folder), str(table), "--task", "hardness", *TINY]
    assert cli.main(command) == 0
    out = tmp_path / "runs" / "single" / "my_crystals-data-hardness"
    said = capsys.readouterr().out
    assert said.startswith("hardness [GPa]: ")
    assert " crystals to learn from, " in said.partition("\n")[0]
    assert f"open {out / 'report.html'}" in said
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count('src="data:image/png;base64,') == 3
    assert "no structure belongs to this row of the targets" in page
    assert "no row of the targets names this structure" in page
    assert "2 rows without a value, predicted" in page
    assert "hold no number" not in page  # a column of words is no target
    tuning = re.search(r"crystalframer finetune NAME (\S+) --task (\S+)</code>", page)
    assert tuning is not None
    assert len(load_task(DataConfig(dataset=tuning[1], task=tuning[2])).rows["train"])
    predicted = pd.read_csv(out / "predicted.csv")
    first, second = small_crystals(75)[:2]
    assert predicted["id"].tolist() == sorted([first.id, second.id])
    assert (predicted["hardness_lower [GPa]"] < predicted["hardness_upper [GPa]"]).all()
    model = cf.load(out)
    table_of_one = model.predict(folder / f"{first.id}.vasp")
    assert table_of_one["upper"].notna().all()
    row = predicted[predicted["id"] == first.id]
    assert table_of_one["prediction"].item() == pytest.approx(row["hardness [GPa]"].item(), rel=1e-5)
    result = RunDirectory(out).result()
    assert result is not None
    row_of_page = re.search(r"<td>this model</td><td>([\d.]+)</td><td>([\d.]+)</td>", page)
    assert row_of_page is not None
    errors = [float(number) for number in row_of_page.groups()]
    assert errors == pytest.approx([result["val_mae"], result["test_mae"]], rel=0.02)  # packed weights are rounded
    before = (out / "checkpoint.pt").stat().st_mtime_ns
    assert cli.main(command) == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert (out / "checkpoint.pt").stat().st_mtime_ns == before


def test_few_crystals_have_no_intervals_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, table = mine(tmp_path / "few", 40, split=False)
    out = tmp_path / "here"
    assert cli.main(["train", str(folder), str(table), "--out", str(out), *TINY]) == 0  # the only property
    assert (
        "None: they are made of the errors on the validation crystals, at least 20" in (out / "report.html").read_text()
    )
    assert "upper" not in cf.load(out / "model.pt").predict(next(folder.iterdir()))
    assert "test MAE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["{folder}", "{table}", "--task", "hardnes"], "has no column of numbers 'hardnes' (did you mean 'hardness'"),
        (["{folder}", "{table}", "--task", "colour"], "has no column of numbers 'colour' (known: hardness)"),
        (["{folder}"], "expected a folder of structures and a table of values"),
        (["{folder}", "{table}", "--dataset", "sample"], "leave out --dataset and --preset"),
        (["{folder}", "{table}", "--set", "train.epoch=3"], "did you mean 'train.epochs'"),
    ],
)
def test_mistakes_get_one_sentence_before_anything_is_trained(
    words: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, table = mine(tmp_path / "few", 4, split=False)
    assert cli.main(["train", *(word.format(folder=folder, table=table) for word in words)]) == 2
    message = capsys.readouterr().err
    assert problem in message
    assert message.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "data").exists()
