"""`import crystalframer as cf`: structures of every kind in, one table out; embeddings by crystal and by atom."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.io.ase import AseAtomsAdaptor

import crystalframer as cf
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.pretrained.ready import Model
from tests.fixtures.own_data import cif, poscar

COLUMNS = ["id", "property", "prediction", "unit", "lower", "upper", "warnings", "error"]


@pytest.fixture
def model(packed: Path) -> Model:
    """Return the packed ensemble by its name."""
    loaded: Model = cf.load("both")
    return loaded


def test_importing_the_package_is_instant() -> None:
    code = (
        "import sys, crystalframer as cf; found = {'torch', 'numpy', 'pandas', 'pydantic'} & set(sys.modules); "
        "assert not found, found; assert 'load' in dir(cf) and callable(cf.load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        cf.fly  # noqa: B018


def test_training_goes_on_after_predicting_in_one_process(packed_folder: Path, tmp_path: Path) -> None:
    program = f"""
from crystalframer.prediction import load_predictor
from crystalframer.geometry.crystal import Crystal
from pathlib import Path
import numpy as np
load_predictor({str(packed_folder / "single.pt")!r}).predict(Crystal(4 * np.eye(3), np.zeros((1, 3)), np.array([29])))
from tests.pretrained.conftest import train
train(Path({str(tmp_path / "run")!r}), **{{"train.epochs": 1}})
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_structures_of_every_kind_have_the_same_prediction(
    model: Model, test_crystals: list[Crystal], tmp_path: Path
) -> None:
    crystal = test_crystals[0]
    structure = crystal.to_structure()
    path = tmp_path / "one.cif"
    path.write_text(cif(crystal))
    kinds: list[Any] = [
        structure,
        AseAtomsAdaptor.get_atoms(structure),
        crystal,
        path,
        str(path),
        cif(crystal),
        poscar(crystal),
    ]
    table = model.predict(kinds)
    assert list(table.columns) == COLUMNS
    assert set(table["error"]) == {""}
    assert np.ptp(table["prediction"]) < 1e-4
    assert set(table["unit"]) == {"eV/atom"}
    assert (table["lower"] < table["prediction"]).all()
    assert (table["prediction"] < table["upper"]).all()
    for one in (structure, crystal, path, cif(crystal)):
        alone = model.predict(one)
        assert len(alone) == 1
        assert alone["prediction"][0] == pytest.approx(table["prediction"][0], abs=1e-4)


def test_a_column_keeps_its_index(model: Model, test_crystals: list[Crystal]) -> None:
    frame = pd.DataFrame({"cif": [cif(one) for one in test_crystals[:3]]}, index=["a", "b", "c"])
    frame["energy"] = model.predict(frame["cif"])["prediction"]
    assert frame["energy"].notna().all()
    assert frame["energy"].to_numpy() == pytest.approx(model.predict(test_crystals[:3])["prediction"], abs=1e-4)


def test_what_cannot_be_read_has_its_reason_and_what_is_strange_a_warning(model: Model) -> None:
    strange = Crystal(3.5 * np.eye(3), np.zeros((1, 3)), np.array([98]), "californium")
    table = model.predict(["no\nstructure", strange])
    assert table["error"][0]
    assert np.isnan(table["prediction"][0])
    assert np.isnan(table["lower"][0])
    assert "unlike the training crystals: Cf in no training crystal" in table["warnings"][1]


def test_a_higher_coverage_has_wider_intervals(model: Model, test_crystals: list[Crystal]) -> None:
    half, most = (model.predict(test_crystals[:5], coverage=coverage) for coverage in (0.5, 0.95))
    assert (half["upper"] - half["lower"] < most["upper"] - most["lower"]).all()
    with pytest.raises(UserError, match="--coverage: got 90"):
        model.predict(test_crystals[0], coverage=90)


def test_embeddings_by_crystal_and_by_atom(model: Model, test_crystals: list[Crystal]) -> None:
    crystals = test_crystals[:4]
    vectors, atoms = model.embed(crystals), model.embed(crystals, per_atom=True)
    assert vectors.shape == (4, 16)
    assert list(vectors.index) == [one.id for one in crystals]
    assert len(atoms) == sum(one.num_atoms for one in crystals)
    for one in crystals:
        own = atoms.xs(one.id, level="id").to_numpy()
        assert own.mean(axis=0) == pytest.approx(vectors.loc[one.id].to_numpy(), abs=1e-5)
    member = model.predictor.members[0]
    head = member.model.head_out(member.model.head_in(_tensor(vectors)).relu()).detach().numpy()
    alone = cf.load("single").predict(crystals)["prediction"]
    assert member.restore(head.astype(float))[:, 0] == pytest.approx(alone.to_numpy(), abs=1e-4)
    with pytest.raises(UserError, match="cannot be embedded"):
        model.embed(["no\nstructure"])


def test_what_a_model_says_of_itself(model: Model, runs: list[Path]) -> None:
    assert model.about["members"] == 2
    assert model.card.startswith("# Model card")
    assert len(model.curves) == 8
    assert repr(model) == "Model(formation_energy [eV/atom]; 2 members; both.pt)"
    plain = cf.load(runs[0])
    assert (plain.about, plain.card, len(plain.curves)) == ({}, "", 0)
    assert list(plain.predict(Crystal(3.6 * np.eye(3), np.zeros((1, 3)), np.array([26]))).columns) == [
        name for name in COLUMNS if name not in ("lower", "upper")
    ]
    assert "both: formation_energy" in cf.models()


def _tensor(table: pd.DataFrame) -> torch.Tensor:
    return torch.tensor(table.to_numpy(dtype=np.float32))
