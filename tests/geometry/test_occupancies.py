"""Disorder, from occupancies to the model: sums of element vectors, and nothing changes for ordered crystals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core.structure import Structure

from crystalframer.config import FRAMES, DataConfig, FrameName
from crystalframer.data import store
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import CrystalDataset, Task, require_elements, select_task
from crystalframer.data.resident import ResidentCrystals
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.occupancies import Mixture, occupied_sites
from tests.fixtures.crystals import batch_of, generic_crystal
from tests.fixtures.models import loud_model, small_config

LATTICE = np.array([[4.1, 0.0, 0.0], [0.3, 4.4, 0.0], [-0.2, 0.5, 4.8]])
COORDS = np.array([[0.02, 0.01, 0.03], [0.51, 0.46, 0.55], [0.5, 0.02, 0.1]])
CUTOFF = 6.0


def salt(first: Any, id: str = "salt") -> Crystal:
    return Crystal.from_structure(Structure(LATTICE, [first, "O", "N"], COORDS), id)


def predicted(crystal: Crystal, frame: FrameName = "max") -> torch.Tensor:
    model = loud_model(small_config(frame), dtype=torch.float64).eval()
    with torch.no_grad():
        return model(batch_of(crystal, cutoff=CUTOFF, dtype=torch.float64))


def test_occupancies_become_a_main_element_and_a_mixture() -> None:
    numbers, mixture = occupied_sites([0, 0, 1, 2, 2], [11, 19, 8, 3, 3], [0.4, 0.6, 1.0, 0.3, 0.2])
    assert numbers.tolist() == [19, 8, 3]
    assert mixture is not None
    assert mixture.sites.tolist() == [0, 0, 2]
    assert mixture.elements.tolist() == [11, 19, 3]
    assert mixture.weights.tolist() == [0.4, 0.6, 0.5]
    assert occupied_sites([0, 1, 1], [3, 8, 8], [1.0, 0.5, 0.5])[1] is None  # the same element twice is one


def test_a_total_that_is_rounded_is_scaled_and_a_larger_one_refused() -> None:
    _, mixture = occupied_sites([0, 0, 0], [24, 25, 26], [0.334, 0.333, 0.335])
    assert mixture is not None
    assert mixture.weights.sum() == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(ValueError, match=r"total occupancy of 1\.2"):
        occupied_sites([0, 0], [24, 25], [0.6, 0.6])
    for occupancy in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="occupancy"):
            occupied_sites([0, 0], [24, 25], [0.5, occupancy])
    with pytest.raises(ValueError, match="site 1 has an occupancy of 0"):
        occupied_sites([0, 1], [24, 25], [0.5, 0.0])


def test_a_crystal_checks_its_mixture() -> None:
    ordered = salt("Li")
    for wrong, message in (
        (Mixture([3], [3], [0.5]), "site outside"),  # type: ignore[arg-type]
        (Mixture([0], [0], [0.5]), "atomic number outside"),  # type: ignore[arg-type]
        (Mixture([0, 0], [5, 3], [0.5, 0.5]), "not sorted"),  # type: ignore[arg-type]
        (Mixture([0, 0], [3, 5], [0.7, 0.5]), r"total occupancy of 1\.2"),  # type: ignore[arg-type]
        (Mixture([0], [3], [np.nan]), "not a finite number"),  # type: ignore[arg-type]
        (Mixture([], [], []), "at least one"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=message):
            replace(ordered, mixture=wrong)


def test_a_crystal_becomes_the_structure_it_came_from() -> None:
    structure = Structure(LATTICE, [{"Li": 0.5, "Be": 0.25}, "O", {"N": 0.9}], COORDS)
    assert Crystal.from_structure(structure).to_structure() == structure


@pytest.mark.parametrize("frame", FRAMES)
def test_a_shared_site_differs_from_both_elements(frame: FrameName) -> None:
    lithium, beryllium, shared = (predicted(salt(site), frame) for site in ("Li", "Be", {"Li": 0.5, "Be": 0.5}))
    assert (shared - lithium).abs() > 1e-4
    assert (shared - beryllium).abs() > 1e-4


def test_a_shared_site_is_the_explicit_sum_of_element_vectors() -> None:
    shared = salt({"Li": 0.3, "Be": 0.6})
    model = loud_model(small_config("max"), dtype=torch.float64).eval()
    batch = batch_of(shared, cutoff=CUTOFF, dtype=torch.float64)
    with torch.no_grad():
        embedded = model.atom_states(batch)[0]
        table = model.embedding.weight
        torch.testing.assert_close(embedded[0], 0.3 * table[2] + 0.6 * table[3], rtol=0, atol=1e-12)
        assert torch.equal(embedded[1], table[7])
        table[4] = 0.3 * table[2] + 0.6 * table[3]  # boron takes on the mixed vector
        pure = model(batch_of(salt("B"), cutoff=CUTOFF, dtype=torch.float64))
        torch.testing.assert_close(model(batch), pure, rtol=0, atol=1e-10)


def test_a_vacancy_contributes_nothing_but_its_site_counts() -> None:
    model = loud_model(small_config("none"), dtype=torch.float64).eval()
    with torch.no_grad():
        table = model.embedding.weight
        half = model.atom_states(batch_of(salt({"Li": 0.5}), cutoff=CUTOFF, dtype=torch.float64))[0]
        torch.testing.assert_close(half[0], 0.5 * table[2], rtol=0, atol=1e-12)
    assert len(half) == 3
    assert (predicted(salt({"Li": 0.5})) - predicted(salt("Li"))).abs() > 1e-4
    nearly = predicted(salt({"Li": 1 - 1e-7}))
    torch.testing.assert_close(nearly, predicted(salt("Li")), rtol=0, atol=1e-4)


def test_ordered_crystals_of_a_mixed_batch_keep_every_bit_of_their_vectors() -> None:
    model = loud_model(small_config("max")).eval()
    ordered = generic_crystal(3)
    with torch.no_grad():
        alone = model.atom_states(batch_of(ordered, cutoff=CUTOFF))[0]
        mixed = model.atom_states(batch_of(salt({"Li": 0.5, "Be": 0.5}), ordered, cutoff=CUTOFF))[0]
    assert torch.equal(mixed[3:], alone)
    assert batch_of(ordered, cutoff=CUTOFF).species is None


def test_every_element_of_a_shared_site_learns() -> None:
    model = loud_model(small_config("max"))
    model(batch_of(salt({"Li": 0.3, "Be": 0.6}), cutoff=CUTOFF)).sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[3], 2 * gradient[2], rtol=1e-5, atol=1e-8)
    assert gradient[2].abs().max() > 0
    assert gradient[4].abs().max() == 0


def mixed_set(name: str = "mixed") -> CrystalDataset:
    crystals = [
        replace(generic_crystal(1), id="a"),
        salt({"Li": 0.5, "Be": 0.5}, "b"),
        replace(generic_crystal(2), id="c"),
        salt({"H": 0.5, "B": 0.2, "C": 0.3}, "d"),
    ]
    task = Task("energy", "eV", np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 2], dtype=np.int8))
    return CrystalDataset.from_crystals(name, crystals, [task])


def test_stores_keep_occupancies(tmp_path: Path) -> None:
    written = mixed_set()
    store.write_store(tmp_path / "mixed", written, {})
    read = store.read_store(tmp_path / "mixed")
    assert read.mixture is not None
    for row in range(4):
        got, want = read[row].mixture, written[row].mixture
        assert (got is None) == (want is None) == (row in (0, 2))
        if got is not None and want is not None:
            assert [values.tolist() for values in vars(got).values()] == [v.tolist() for v in vars(want).values()]
    assert replace(read, stored_fingerprint=None).fingerprint == written.fingerprint
    ordered = replace(written, mixture=None)
    assert ordered.fingerprint != written.fingerprint
    store.write_store(tmp_path / "ordered", ordered, {})
    assert store.read_store(tmp_path / "ordered").mixture is None


def test_heavy_elements_hide_in_no_mixture() -> None:
    data = mixed_set()
    require_elements(data, np.arange(4), 10)
    heavy = CrystalDataset.from_crystals("heavy", [replace(data[0]), salt({"Li": 0.9, "U": 0.1}, "hot")])
    with pytest.raises(UserError, match=r"'hot' .* contains U \(Z = 92\)"):
        require_elements(heavy, np.arange(2), 10)
    require_elements(heavy, np.array([0]), 10)
    with pytest.raises(UserError, match="atomic number 92"):
        predicted(heavy[1])


def test_disordered_crystals_are_batched_on_the_host_and_on_the_device_alike() -> None:
    task = select_task(mixed_set(), DataConfig(dataset="mixed", task="energy"))
    batch = BatchLoader(task, CUTOFF).batch(np.array([3, 0, 1]))
    assert batch.species is not None
    assert batch.occupancies is not None
    assert batch.species[0].tolist() == [1, 5, 6]
    assert batch.occupancies[0].tolist() == pytest.approx([0.5, 0.2, 0.3])
    assert batch.largest_atomic_number == 8
    resident = ResidentCrystals(task, np.arange(4), CUTOFF, "cpu")
    model = loud_model(small_config("max")).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(resident.batch(np.array([3, 0, 1])))[:3], model(batch), rtol=1e-5, atol=1e-5)
