"""Flat data sets: what goes in comes out, the fingerprint sees every change, selections are fixed and checked."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalframer.config import DataConfig
from crystalframer.data.dataset import (
    CrystalDataset,
    SplitName,
    Task,
    require_elements,
    select_task,
    unit_token,
)
from crystalframer.data.sample import split_by_hash
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal


def make_crystals(count: int = 30) -> list[Crystal]:
    rng = np.random.default_rng(5)
    crystals = []
    for i in range(count):
        atoms = i % 3 + 1
        coords = (np.arange(atoms)[:, None] + rng.random((atoms, 3)) / 4) / 3
        crystals.append(Crystal(np.diag(rng.uniform(3, 9, 3)), coords, rng.integers(1, 99, atoms), f"id-{i}"))
    return crystals


def make_dataset(targets: NDArray[np.float64] | None = None, split: NDArray[np.int8] | None = None) -> CrystalDataset:
    crystals = make_crystals()
    targets = np.linspace(-1, 1, len(crystals)) if targets is None else targets
    split = np.array([[0, 0, 0, 1, 2][i % 5] for i in range(len(crystals))], dtype=np.int8) if split is None else split
    return CrystalDataset.from_crystals("toy", crystals, [Task("energy", "eV/atom", targets, split)])


def test_crystals_come_back_as_they_went_in() -> None:
    dataset, crystals = make_dataset(), make_crystals()
    assert len(dataset) == 30
    assert dataset.num_atoms.tolist() == [crystal.num_atoms for crystal in crystals]
    for i in (0, 1, 17, -1):
        got, put = dataset[i], crystals[i]
        assert got.id == put.id
        for name in ("lattice", "frac_coords", "atomic_numbers"):
            assert np.array_equal(getattr(got, name), getattr(put, name)), name
    with pytest.raises(IndexError):
        dataset[30]


def test_arrays_cannot_be_written_to() -> None:
    dataset = make_dataset()
    task = dataset.tasks["energy"]
    for array in (dataset.lattice, dataset.frac_coords, dataset.atomic_numbers, task.targets, task.split):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_fingerprint_is_the_contents() -> None:
    dataset = make_dataset()
    assert dataset.fingerprint == make_dataset().fingerprint
    assert dataset.fingerprint == replace(dataset, name="other").fingerprint
    task = dataset.tasks["energy"]
    moved = dataset.frac_coords.copy()
    moved[3, 1] += 1e-12
    numbers = dataset.atomic_numbers.copy()
    numbers[0] ^= 1
    split = task.split.copy()
    split[0] = 2
    changes: list[dict[str, Any]] = [
        {"ids": np.array([f"jd-{i}" for i in range(30)])},
        {"lattice": dataset.lattice * 2},
        {"frac_coords": moved},
        {"atomic_numbers": numbers},
        {"tasks": {}},
        {"tasks": {"energy": replace(task, unit="eV")}},
        {"tasks": {"energy": replace(task, targets=task.targets + 1e-15)}},
        {"tasks": {"energy": replace(task, split=split)}},
    ]
    prints = {replace(dataset, **change).fingerprint for change in changes}
    assert len(prints | {dataset.fingerprint}) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.arange(30)}, r"offsets has shape \(30,\), expected \(31,\)"),
        ({"offsets": np.arange(31)}, "offsets do not ascend strictly from 0 to 60"),
        ({"lattice": np.zeros((30, 9))}, r"lattice has shape \(30, 9\), expected \(30, 3, 3\)"),
        ({"ids": np.array(["same"] * 30)}, r"id \['same'\] occurs more than once"),
    ],
)
def test_arrays_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"data set 'toy': {message}"):
        replace(make_dataset(), **change)


def test_bad_targets_and_splits() -> None:
    targets = np.zeros(30)
    targets[[4, 9]] = [np.inf, -np.inf]
    with pytest.raises(UserError, match=r"'energy' has 2 infinite targets, first for crystal \['id-4'\]"):
        make_dataset(targets)
    with pytest.raises(UserError, match=r"targets of energy has shape \(29,\), expected \(30,\)"):
        make_dataset(np.zeros(29))
    with pytest.raises(UserError, match=r"split codes \[0, 3\]"):
        make_dataset(split=np.array([0, 3] * 15, dtype=np.int8))


def test_from_crystals_wants_ids() -> None:
    with pytest.raises(UserError, match="got no crystals"):
        CrystalDataset.from_crystals("toy", [])
    nameless = Crystal(np.eye(3) * 3, np.zeros((1, 3)), np.array([1]))
    with pytest.raises(UserError, match="crystal number 0 has no id"):
        CrystalDataset.from_crystals("toy", [nameless])


def test_a_selection_leaves_out_absent_targets() -> None:
    targets = np.where(np.arange(30) % 4 == 0, np.nan, 1.5)
    data = select_task(make_dataset(targets), DataConfig(task="energy"))
    names: tuple[SplitName, ...] = ("train", "val", "test")
    for code, name in enumerate(names):
        expected = [i for i in range(30) if [0, 0, 0, 1, 2][i % 5] == code and i % 4 != 0]
        assert sorted(data.rows[name].tolist()) == expected
        assert data.rows[name].dtype == np.int64
    assert (data.task, data.unit) == ("energy", "eV/atom")


def test_a_smaller_subset_is_a_prefix_in_the_order_of_the_ids_hashes() -> None:
    dataset = make_dataset()
    full = select_task(dataset, DataConfig(task="energy"))
    small = select_task(dataset, DataConfig(task="energy", train_size=5, val_size=2))
    assert np.array_equal(small.rows["train"], full.rows["train"][:5])
    assert np.array_equal(small.rows["val"], full.rows["val"][:2])
    assert np.array_equal(small.rows["test"], full.rows["test"])
    keys = [hashlib.sha256(str(dataset.ids[row]).encode()).hexdigest() for row in full.rows["train"]]
    assert keys == sorted(keys)
    assert len({full.fingerprint, small.fingerprint, dataset.fingerprint}) == 3
    assert small.fingerprint == select_task(dataset, DataConfig(task="energy", train_size=5, val_size=2)).fingerprint


def test_selections_that_cannot_be_made() -> None:
    with pytest.raises(UserError, match=r"'toy' has no task 'enregy' \(did you mean 'energy'\?\)"):
        select_task(make_dataset(), DataConfig(task="enregy"))
    with pytest.raises(UserError, match=r"train split: setting 'data.train_size' asks for 19 crystals, but only 18"):
        select_task(make_dataset(), DataConfig(task="energy", train_size=19))
    with pytest.raises(UserError, match=r"train split: found 18 crystals, all without a target \(NaN\)"):
        select_task(make_dataset(np.full(30, np.nan)), DataConfig(task="energy"))
    with pytest.raises(UserError, match="val split: found no crystals, expected at least one"):
        select_task(make_dataset(split=np.zeros(30, dtype=np.int8)), DataConfig(task="energy"))


def test_elements_a_model_does_not_know() -> None:
    dataset = make_dataset()
    heavy = dataset.atomic_numbers.copy()
    heavy[dataset.offsets[7]] = 99
    heavy[dataset.offsets[8]] = 100
    dataset = replace(dataset, atomic_numbers=heavy)
    require_elements(dataset, np.array([0, 1, 6, 9]), 98)
    require_elements(dataset, np.arange(30), 100)
    with pytest.raises(
        UserError, match=r"crystal 'id-8' .* contains Fm \(Z = 100\), but .* elements 1 to 98.* 1 crystal"
    ):
        require_elements(dataset, np.array([8, 3]), 98)
    with pytest.raises(UserError, match=r"crystal 'id-7' .* contains Es \(Z = 99\).* 2 crystal\(s\)"):
        require_elements(dataset, np.arange(30), 98)


def test_the_hash_split_is_fixed() -> None:
    keys = [f"mp-{i}" for i in range(20000)]
    codes = split_by_hash(keys)
    assert np.bincount(codes) / 20000 == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert np.array_equal(codes[:100], split_by_hash(keys[:100]))
    u = int(hashlib.sha256(b"split:mp-10").hexdigest()[:16], 16) / 2**64
    assert codes[10] == (0 if u < 0.8 else 1 if u < 0.9 else 2)


def test_unit_tokens() -> None:
    assert [unit_token(unit) for unit in ("eV/atom", "eV", "log10(GPa)")] == ["eV_per_atom", "eV", "log10_GPa"]
    with pytest.raises(UserError, match="unit ' ' has no letters"):
        unit_token(" ")


def test_several_tasks_share_rows_and_keep_their_own_test_sets() -> None:
    absent = float("nan")
    tasks = [
        Task("a", "eV", np.array([1.0, 2.0, 3.0, absent, 5.0, 6.0]), np.array([0, 0, 2, 0, 1, -1], dtype=np.int8)),
        Task("b", "GPa", np.array([10.0, absent, 30.0, 40.0, 50.0, 60.0]), np.array([0, 2, 0, 0, 2, 1], dtype=np.int8)),
    ]
    crystals = [Crystal(np.eye(3) * 3, np.zeros((1, 3)), np.array([1]), f"id-{i}") for i in range(6)]
    data = select_task(CrystalDataset.from_crystals("toy", crystals, tasks), DataConfig(task="a,b"))
    assert (data.tasks, data.units, data.unit) == (("a", "b"), ("eV", "GPa"), "std")
    assert {split: sorted(rows.tolist()) for split, rows in data.rows.items()} == {
        "train": [0, 1, 3],  # 1 is a test crystal of b, but without a target
        "val": [5],
        "test": [2, 4],  # 2 trains b on its own, 4 validates a
    }
    expected = [[1, 10], [2, absent], [3, absent], [absent, 40], [absent, 50], [absent, 60]]
    np.testing.assert_array_equal(data.targets, expected)
