"""The Python interface: any kind of structure, ordered results, errors per structure, ensembles."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.io.ase import AseAtomsAdaptor

from crystalframer.data.batch import CrystalBatch, collate
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.prediction import Predictor, load_predictor
from crystalframer.prediction.predictor import NO_MEMORY, USUAL_NEIGHBOURS, load_of
from crystalframer.training.metrics import Target
from crystalframer.training.trained_model import TrainedModel, write_model
from tests.prediction.conftest import TARGETS, MakeModel


def one_by_one(trained: TrainedModel, crystals: list[Crystal]) -> np.ndarray:
    cutoff = trained.trial.model.cutoff
    with torch.no_grad():
        outputs = [trained.model(collate([prepare_geometry(crystal, cutoff)], cutoff)) for crystal in crystals]
    return trained.restore(torch.cat(outputs).double().numpy())


def test_predictions_are_the_models_in_order_and_in_their_units(
    trained: TrainedModel, model_file: Path, crystals: list[Crystal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crystalframer.prediction.predictor.EVALUATION_ATOMS", 20)
    predictor = load_predictor(model_file)
    result = predictor.predict(crystals)
    assert np.allclose(result.values, one_by_one(trained, crystals), atol=1e-5)
    assert np.ptp(result.values, axis=0).min() > 0.1
    assert result.ids == tuple(crystal.id for crystal in crystals)
    assert (result.names, result.units) == (("formation_energy", "bandgap"), ("eV/atom", "eV"))
    assert result.num_predicted == len(crystals)
    assert result.spread is None
    frame = result.to_dataframe()
    assert list(frame.columns) == ["id", "source", "formation_energy [eV/atom]", "bandgap [eV]", "error"]
    assert np.array_equal(frame["bandgap [eV]"], result.values[:, 1])


def test_every_kind_of_structure_predicts_the_same(
    trained: TrainedModel, crystals: list[Crystal], cif_folder: Path
) -> None:
    predictor = Predictor([trained])
    expected = predictor.predict(crystals).values
    structures = [crystal.to_structure() for crystal in crystals]
    atoms = [AseAtomsAdaptor.get_atoms(structure, msonable=False) for structure in structures]
    files = sorted(cif_folder.iterdir())
    for given in (structures, atoms, files, [str(path) for path in files]):
        result = predictor.predict(given)
        assert result.errors == ("",) * len(crystals)
        assert np.allclose(result.values, expected, atol=2e-4)  # the CIFs are rounded
    mixed = predictor.predict([files[0], structures[1], crystals[2], files[3]])
    assert np.allclose(mixed.values, expected[:4], atol=2e-4)
    assert mixed.sources == (str(files[0]), "", "", str(files[3]))
    for single in (structures[0], atoms[0], crystals[0], files[0]):
        assert np.allclose(predictor.predict(single).values, expected[:1], atol=2e-4)


def test_what_cannot_be_predicted_has_a_reason_and_harms_nobody(
    make_model: MakeModel, crystals: list[Crystal], tmp_path: Path
) -> None:
    heavy = Crystal(4 * np.eye(3), np.zeros((1, 3)), np.array([99]), "heavy")
    molecule = AseAtomsAdaptor.get_atoms(crystals[0].to_structure(), msonable=False)
    molecule.pbc = False
    predictor = Predictor([make_model()])
    result = predictor.predict([crystals[0], heavy, molecule, tmp_path / "none.cif", crystals[1]])
    assert [bool(error) for error in result.errors] == [False, True, True, True, False]
    assert result.errors[1] == "contains Es (Z = 99); this model knows the elements 1 to 98"
    assert "periodic" in result.errors[2]
    assert "does not exist" in result.errors[3]
    assert np.isnan(result.values[1:4]).all()
    assert np.allclose(result.values[[0, 4]], predictor.predict(crystals[:2]).values, atol=1e-6)
    with pytest.raises(UserError, match="structure number 1 is a int; expected a pymatgen Structure"):
        predictor.predict([crystals[0], 3])  # type: ignore[list-item]


def test_a_model_that_overflows_is_an_error_and_not_a_number(make_model: MakeModel, crystals: list[Crystal]) -> None:
    model = make_model()
    with torch.no_grad():
        model.model.head_out.weight.fill_(3e38)
    result = Predictor([model]).predict(crystals[:2])
    assert result.errors == ("the model's prediction is not a finite number",) * 2


def test_an_ensemble_gives_mean_and_spread(make_model: MakeModel, crystals: list[Crystal]) -> None:
    members = [make_model(), make_model(shift=0.3), make_model(cutoff=4.0)]
    each = np.stack([one_by_one(member, crystals) for member in members])
    result = Predictor(members).predict(crystals)
    assert result.spread is not None
    assert np.allclose(result.values, each.mean(axis=0), atol=1e-5)
    assert np.allclose(result.spread, each.std(axis=0, ddof=1), atol=1e-5)
    assert list(result.to_dataframe().columns)[2:4] == ["formation_energy [eV/atom]", "formation_energy_std [eV/atom]"]


def test_models_of_different_targets_are_no_ensemble(make_model: MakeModel) -> None:
    other = (TARGETS[0], Target("bandgap", "meV", 0.0, 1.0))
    with pytest.raises(UserError, match=r"one predicts .*bandgap \[eV\], another .*bandgap \[meV\]"):
        Predictor([make_model(), make_model(targets=other)])
    with pytest.raises(UserError, match="got no model"):
        Predictor([])


def test_models_are_found_by_file_folder_and_pattern(trained: TrainedModel, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_model(tmp_path / f"max-seed{seed}" / "checkpoint.pt", trained)
    assert len(load_predictor(tmp_path / "max-seed1").members) == 1
    assert len(load_predictor(tmp_path / "max-seed1" / "checkpoint.pt").members) == 1
    assert len(load_predictor(str(tmp_path / "max-seed*")).members) == 2
    assert len(load_predictor(tmp_path / "max-seed1", tmp_path / "max-seed2").members) == 2
    with pytest.raises(UserError, match="there is no model"):
        load_predictor(tmp_path / "lattice*")
    with pytest.raises(UserError, match=r"holds no checkpoint\.pt"):
        load_predictor(tmp_path)
    with pytest.raises(UserError, match="is an address in MLflow"):
        load_predictor("models:/mine/1")


def test_a_model_file_gives_back_all_of_a_model(trained: TrainedModel, tmp_path: Path) -> None:
    known = dataclasses.replace(trained, elements=(1, 8), origin="a test")
    write_model(tmp_path / "model.pt", known)
    (again,) = load_predictor(tmp_path / "model.pt").members
    for name in ("trial", "targets", "epoch", "averaged", "data_fingerprint", "elements", "origin"):
        assert getattr(again, name) == getattr(known, name)
    assert not again.model.training
    assert Predictor([known]).trained_elements == frozenset({1, 8})
    assert Predictor([known, trained]).trained_elements is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 7}, "format version 7, expected 1"),
        ({"targets": []}, "names 0 targets, expected 2"),
        ({"targets": [{"name": "x"}]}, "lacks a part or has a wrong one"),
        ({"model": {}}, "do not fit its settings"),
        ({"trial": {"data": {}, "model": {"frame": "maxx"}}}, "unknown model.frame 'maxx'"),
    ],
)
def test_a_damaged_model_file_is_one_clear_sentence(model_file: Path, change: dict[str, object], problem: str) -> None:
    content = torch.load(model_file, weights_only=True)
    torch.save({**content, **change}, model_file)
    with pytest.raises(UserError, match=problem):
        load_predictor(model_file)


def test_too_little_memory_costs_only_what_does_not_fit(make_model: MakeModel, crystals: list[Crystal]) -> None:
    member = make_model()
    expected = Predictor([member]).predict(crystals)
    most = sorted({crystal.num_atoms for crystal in crystals})[-2]
    asked: list[int] = []

    def allocate(_: object, inputs: tuple[CrystalBatch, ...]) -> None:
        asked.append(inputs[0].num_atoms)
        if asked[-1] > most:
            raise torch.OutOfMemoryError(f"no memory for {asked[-1]} atoms")

    member.model.register_forward_pre_hook(allocate)
    result = Predictor([member]).predict(crystals)
    fits = np.array([crystal.num_atoms <= most for crystal in crystals])
    assert len(asked) > 3
    assert np.allclose(result.values[fits], expected.values[fits], atol=1e-5)
    assert np.isnan(result.values[~fits]).all()
    assert [error == NO_MEMORY for error in result.errors] == [not fit for fit in fits]


def test_atoms_crowded_together_are_refused_before_they_fill_the_memory(make_model: MakeModel) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(20) / 20] * 3), axis=-1).reshape(-1, 3)
    crowd = Crystal(4.0 * np.eye(3), grid, np.full(8000, 14), "crowd")
    result = Predictor([make_model(cutoff=8.0)]).predict(crowd)
    assert result.errors[0].startswith("8000 atoms have about 2.1e+09 neighbours within 8 Å")


def test_a_dense_crystal_fills_a_batch_sooner(crystals: list[Crystal]) -> None:
    dense = Crystal(1.5 * np.eye(3), np.zeros((1, 3)), np.array([14]))
    assert load_of(dense, 8.0) == pytest.approx(8.0**3 * 4.19 / 1.5**3 / USUAL_NEIGHBOURS, abs=2)
    assert load_of(crystals[0], 4.0) == crystals[0].num_atoms
