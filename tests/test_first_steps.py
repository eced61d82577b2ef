"""The commands of docs/first_steps.md are run as the page has them, in order, on small data with small settings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest
import yaml

from tests.fixtures.own_data import cif, energy, small_crystals
from tests.fixtures.pages import Page
from tests.orchestration.conftest import TINY

ROOT = Path(__file__).parents[1]
PAGE = Page("first_steps.md")
MODEL = [f"--set=model.{key}={value}" for key, value in TINY["model"].items()]
SMALL = {
    "train": [*MODEL, "--set=train.epochs=6", "--set=train.average_epochs=1"],
    "finetune": ["--set=train.epochs=1"],
    "sweep": MODEL,
}
"""What is added to a command so that it takes seconds."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("crystals")]


def commands(title: str) -> list[str]:
    """Return the commands of a section that are ours, in order."""
    found = [line for line in PAGE.commands(title) if line.startswith("crystalframer ")]
    assert found, f"{title!r} has none"
    return found


@pytest.fixture
def crystals(tmp_path: Path) -> None:
    """Lay down what the page supposes: folders of CIFs, a spreadsheet and a table beside the structures."""
    sheet = openpyxl.Workbook()
    page = sheet.active
    assert page is not None
    page.append(["file", "hardness (GPa)"])
    lines = []
    for folder, some in (("my_crystals", small_crystals(60)), ("new_crystals", small_crystals(3))):
        (tmp_path / folder).mkdir()
        for crystal in some:
            (tmp_path / folder / f"{crystal.id}.cif").write_text(cif(crystal))
            if folder == "my_crystals":
                page.append([f"{crystal.id}.cif", energy(crystal)])
                lines.append(f"{crystal.id}.cif,{energy(crystal)}\n")
    sheet.save(tmp_path / "data.xlsx")
    (tmp_path / "my_crystals" / "id_prop.csv").write_text("".join(lines))


def typed(folder: Path, command: str) -> str:
    """Run a command of the page in an empty folder, small, and return what it printed."""
    program, name, *words = command.split()
    line = [sys.executable, "-m", program, name, *words, *SMALL.get(name, [])]
    variables = {**os.environ, "CRYSTALFRAMER_DATA": str(folder / "data"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_own_crystals_in_five_minutes(tmp_path: Path) -> None:
    said = {command: typed(tmp_path, command) for command in commands("Your own crystals")}
    assert (tmp_path / "runs" / "single" / "my_crystals-data-hardness" / "report.html").is_file()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + len(small_crystals(3))
    prepared, trained = (next(text for text in said if f" {name} " in text) for name in ("prepare", "train --dataset"))
    assert f"train with: {trained.removesuffix(' --out mine')}\n" in said[prepared]
    evaluated = next(text for command, text in said.items() if " evaluate " in command)
    assert evaluated.startswith("target, ")
    assert "MAE" in evaluated


def test_a_model_of_the_package_is_fine_tuned(tmp_path: Path) -> None:
    *_, said = (typed(tmp_path, command) for command in commands("From a model that is there"))
    assert "fine-tuned" in said
    assert "\nuse: " in said


def test_a_sweep_of_ones_own(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.section("A question of your own"), re.DOTALL)
    content = yaml.safe_load(block)
    content["base"]["train"] = {"epochs": 2, "batch_size": 16, "average_epochs": 1}
    content["grid"] |= {"train.learning_rate": [0.0005], "train.seed": [0]}
    (tmp_path / "my_question.yaml").write_text(yaml.safe_dump(content))
    prepare, dry_run, sweep, status, figures = (
        typed(tmp_path, one) for one in commands("A question of your own") if " files " not in one
    )
    assert "hardness          GPa                60" in prepare
    assert dry_run.strip().endswith("2 trials")
    assert f"what became of every trial: {tmp_path}/runs/my_question/report.md" in sweep
    assert "my_question: 2 trials: 2 done" in status
    assert "failed" not in figures
    page = (tmp_path / "analysis" / "output" / "my_question" / "index.html").read_text(encoding="utf-8")
    assert content["question"] in page


@pytest.mark.parametrize("command", commands("A cluster"))
def test_what_a_cluster_needs_comes_along(tmp_path: Path, command: str) -> None:
    assert typed(tmp_path, command).strip() == "cluster.yaml"
    assert yaml.safe_load((tmp_path / "cluster.yaml").read_text())["provider"]["type"] == "aws"
