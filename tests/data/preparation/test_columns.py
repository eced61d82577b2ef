"""Records read many at a time give exactly what reading them one by one gives."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalframer.data.preparation.columns import Columns, Layout, chunk_to_columns, records_to_columns
from crystalframer.data.sample import load_sample
from crystalframer.data.structures.records import record_to_crystal, split_records
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, Crystal

LAYOUT = Layout(("jid", "id"), {"bandgap": "gap", "e_hull": "hull"})


def record(crystal: Crystal, **fields: Any) -> dict[str, Any]:
    return {
        "jid": crystal.id,
        "atoms": {
            "lattice_mat": crystal.lattice.tolist(),
            "coords": crystal.frac_coords.tolist(),
            "elements": [ELEMENTS[number - 1] for number in crystal.atomic_numbers],
            "cartesian": False,
        },
        **fields,
    }


def sample_records(count: int) -> list[dict[str, Any]]:
    sample = load_sample()
    rows = np.random.default_rng(0).choice(len(sample), count, replace=False)
    return [record(sample[int(row)], gap=float(row), hull="na") for row in rows]


def one_by_one(records: list[dict[str, Any]]) -> tuple[list[Crystal], dict[int, str]]:
    crystals, reasons = [], {}
    for row, entry in enumerate(records):
        try:
            crystals.append(record_to_crystal(entry, str(entry["jid"])))
        except UserError as error:
            reasons[row] = str(error)
    return crystals, reasons


def assert_same(got: Columns, records: list[dict[str, Any]]) -> None:
    crystals, reasons = one_by_one(records)
    assert got.reasons == reasons
    assert got.kept.tolist() == [row not in reasons for row in range(len(records))]
    assert got.sizes.tolist() == [crystal.num_atoms for crystal in crystals]
    assert np.array_equal(got.lattice, np.array([crystal.lattice for crystal in crystals]).reshape(-1, 3, 3))
    for name in ("frac_coords", "atomic_numbers"):
        assert np.array_equal(getattr(got, name), np.concatenate([getattr(crystal, name) for crystal in crystals])), (
            name
        )


def test_real_crystals() -> None:
    records = sample_records(400)
    assert_same(records_to_columns(records, LAYOUT, "x"), records)


def test_everything_that_can_be_wrong_among_real_crystals() -> None:
    records = sample_records(60)
    damages: list[tuple[tuple[str, ...], Any]] = [
        (("atoms",), None),
        (("atoms", "lattice_mat"), [[1, 0, 0], [2, 0, 0], [0, 0, 1]]),
        (("atoms", "lattice_mat"), [[1, 0, 0], [0, 1, 0], [0, 0, 1e-4]]),
        (("atoms", "elements"), ["Xx"]),
        (("atoms", "elements"), "Na"),
        (("atoms", "elements"), [["Na"]]),
        (("atoms", "coords"), [[0, 0, 0]]),
        (("atoms", "coords"), [[0, 0, 0], [0, 0, 1.00001]]),
        (("atoms", "coords"), [[0, 0, float("nan")], [0, 0, 0.5]]),
        (("atoms", "coords"), [[0, 0, float("inf")], [0, 0, 0.5]]),
        (("atoms", "coords"), [[1e5, 0, 0], [0.5, 0, 0.5]]),
        (("atoms", "coords"), [[-3, 7, 0], [0.5, -2, 0.5]]),
        (("atoms", "elements"), [" Na", "Cl "]),
        (("atoms", "cartesian"), True),
    ]
    for row, (path, value) in enumerate(damages):
        target = records[3 * row]
        if path != ("atoms",):
            target["atoms"]["elements"] = ["Na", "Cl"]
            target["atoms"]["coords"] = [[0, 0, 0], [0.5, 0.5, 0.5]]
        inner = target if len(path) == 1 else target["atoms"]
        inner[path[-1]] = copy.deepcopy(value)
    got = records_to_columns(records, LAYOUT, "x")
    assert_same(got, records)
    assert len(got.reasons) == 10


def test_ragged_records() -> None:
    records = sample_records(20)
    records[4]["atoms"]["coords"][0] = [0, 0]
    records[9]["atoms"]["lattice_mat"] = [[1, 2], [3, 4]]
    got = records_to_columns(records, LAYOUT, "x")
    assert_same(got, records)
    assert sorted(got.reasons) == [4, 9]


def test_thin_and_skewed_cells_are_judged_as_by_the_crystal_itself() -> None:
    rng = np.random.default_rng(2)
    records: list[dict[str, Any]] = []
    for number in range(600):
        lattice = rng.normal(size=(3, 3)) * rng.choice([0.05, 0.2, 1.0, 5.0], size=(3, 1))
        lattice[1] += rng.integers(-6, 7) * lattice[0]
        size = int(rng.integers(1, 5))
        coords = rng.random((size, 3)) * 4 - 2
        if size > 1 and number % 2:  # near another one, or near one of its images
            step = rng.normal(size=3)
            step *= rng.choice([0.0999, 0.1001, 0.05]) / np.linalg.norm(step)
            coords[1] = coords[0] + np.linalg.solve(lattice.T, step) + rng.integers(-2, 3, 3)
        atoms = {"lattice_mat": lattice.tolist(), "coords": coords.tolist(), "elements": ["Si"] * size}
        records.append({"jid": f"x{number}", "atoms": atoms})
    got = records_to_columns(records, LAYOUT, "x")
    assert_same(got, records)
    assert 100 < len(got.reasons) < 500


def test_ids_and_targets() -> None:
    records = sample_records(4)
    records[0]["jid"] = 17
    records[1] = {"id": " b ", "atoms": records[1]["atoms"], "gap": "2.5", "hull": None}
    got = records_to_columns(records, LAYOUT, "x")
    assert got.ids[:2] == ["17", "b"]
    assert got.targets["bandgap"][1] == 2.5
    assert np.isnan(got.targets["e_hull"]).all()
    assert records_to_columns(records, Layout(("jid", "id"), {}, "bulk:"), "x").ids[0] == "bulk:17"
    del records[2]["jid"]
    with pytest.raises(UserError, match=r"source x: record 12 has no id in field 'jid' \(it has: atoms, gap, hull\)"):
        records_to_columns(records, LAYOUT, "x", first=10)


def test_numbers_that_only_python_writes_are_read(tmp_path: Path) -> None:
    records = sample_records(5)
    records[1]["gap"], records[2]["hull"], records[3]["gap"] = float("nan"), float("-inf"), 10**400
    path = tmp_path / "x.json"
    path.write_text(json.dumps(records))
    (chunk,) = split_records(path)
    got = chunk_to_columns(chunk, LAYOUT)
    assert np.isnan(got.targets["bandgap"]).tolist() == [False, True, False, True, False]
    assert np.isnan(got.targets["e_hull"]).all()
    assert_same(got, records)
