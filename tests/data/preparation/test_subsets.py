"""A user's data set may state which published split it is a part of; what contradicts that is an error."""

from pathlib import Path

import numpy as np
import pytest

from crystalframer.data.dataset import Task
from crystalframer.data.preparation.subsets import find_subsets
from crystalframer.data.registry import subset_of
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED
from pipelines.prepare_data import main
from tests.fixtures.own_data import poscar, small_crystals


def task(name: str, unit: str = "eV", train: int = 10, test: int = 3) -> Task:
    split = np.repeat(np.array([0, 1, 2], dtype=np.int8), [train, 2, test])
    return Task(name, unit, np.linspace(0.0, 5.0, len(split)), split)


def table(path: Path, column: str) -> Path:
    rows = [
        f'"{crystal.id}","{poscar(crystal)}",{n / 10},{("train", "val", "test")[max(0, n - 5)]}'
        for n, crystal in enumerate(small_crystals(8))
    ]
    path.write_text("\n".join([f"id,poscar,{column},split", *rows, ""]))
    return path


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))


def test_what_a_data_set_is_a_part_of_is_recorded_and_leaves_its_content_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(table(tmp_path / "part.csv", "bandgap_mbj")), "--unit", "bandgap_mbj=eV"]
    assert main(arguments) == 0
    before = capsys.readouterr().out
    assert subset_of("part") == {}
    assert main([*arguments, "--subset-of", "jarvis:bandgap_mbj"]) == 0
    after = capsys.readouterr().out
    assert subset_of("part") == {"bandgap_mbj": "jarvis:bandgap_mbj"}
    said = "bandgap_mbj: 6 of 14,537 training, 1 of 1,815 test crystals of jarvis:bandgap_mbj\n"
    assert said in after
    assert after.replace(said, "") == before


def test_the_task_may_be_called_otherwise() -> None:
    published = "jarvis:bandgap_mbj"
    assert find_subsets([published], {"gap": task("gap")}) == {"gap": published}
    two = {"gap": task("gap"), "other": task("other")}
    assert find_subsets([f"gap={published}"], two) == {"gap": published}
    with pytest.raises(UserError, match=r"have no task 'bandgap_mbj'.*--subset-of TASK=jarvis:bandgap_mbj"):
        find_subsets([published], two)


@pytest.mark.parametrize(
    ("stated", "found", "message"),
    [
        ("jarvis:bandgap_mjb", task("bandgap_mbj"), "did you mean 'jarvis:bandgap_mbj'"),
        ("sample:bandgap", task("bandgap"), "is no published task"),
        ("jarvis:bandgap_mbj", task("bandgap_mbj", "meV"), "is in meV here and in eV there; give the unit"),
        ("jarvis:bandgap_mbj", task("bandgap_mbj", test=1818), "1,818 crystals in the test split, .* has 1,817"),
    ],
)
def test_a_contradiction_is_one_sentence(stated: str, found: Task, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_subsets([stated], {found.name: found})


def test_a_test_set_is_the_published_one_within_one_percent() -> None:
    known = PUBLISHED["jarvis"].tasks["bandgap_mbj"]
    assert known.coverage(14439, 1813) == "14,439 of 14,537 training, 1,813 of 1,815 test crystals"
    assert [known.same_test_set(size) for size in (1815, 1813, 1797, 1796, 1700)] == [True, True, True, False, False]
