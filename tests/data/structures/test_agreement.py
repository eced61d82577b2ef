"""Structures that pymatgen, ASE and gemmi write are read as pymatgen reads them; real files of packages as well."""

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import gemmi
import numpy as np
import pytest
from pymatgen.core.structure import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.io.vasp.inputs import Poscar

from crystalframer.data.sample import load_sample
from crystalframer.data.structures.files import read_structures
from crystalframer.geometry.crystal import Crystal, close_pair
from tests.fixtures.structure_texts import formula_of

NUM_EACH = 30
MAX_ATOMS = 24
Writer = Callable[[Structure, Path], None]


def by_gemmi(structure: Structure, path: Path) -> None:
    """Write a CIF of all atoms, without a word about symmetry."""
    small = gemmi.SmallStructure()
    small.cell.set(*structure.lattice.parameters)
    for number, site in enumerate(structure):
        entry = gemmi.SmallStructure.Site()
        entry.label, entry.type_symbol = f"{site.specie.symbol}{number}", site.specie.symbol
        entry.element, entry.fract, entry.occ = (
            gemmi.Element(site.specie.symbol),
            gemmi.Fractional(*site.frac_coords),
            1,
        )
        small.add_site(entry)
    path.write_text(small.make_cif_block().as_string())


def by_pymatgen(**options: Any) -> Writer:
    """Return a writer of CIFs; with `symprec` they are of the conventional cell and hold its symmetry."""
    return lambda structure, path: CifWriter(structure, **options).write_file(path)


def as_json(structure: Structure, path: Path) -> None:
    path.write_text(json.dumps(structure.as_dict()))


def by_ase(structure: Structure, path: Path) -> None:
    ase.io.write(path, AseAtomsAdaptor.get_atoms(structure))


WRITERS: dict[str, Writer] = {
    "pymatgen.cif": lambda structure, path: CifWriter(structure, significant_figures=12).write_file(path),
    "symmetric.cif": lambda structure, path: CifWriter(structure, symprec=1e-3, significant_figures=10).write_file(
        path
    ),
    "refined.cif": lambda structure, path: CifWriter(structure, symprec=0.01, refine_struct=True).write_file(path),
    "ase.cif": by_ase,
    "gemmi.cif": by_gemmi,
    "pymatgen.vasp": lambda structure, path: Poscar(structure).write_file(path, significant_figures=12),
    "ase.vasp": by_ase,
    "ase.extxyz": by_ase,
    "pymatgen.json": as_json,
}


def facts(crystal: Crystal) -> tuple[dict[str, float], int, float, float]:
    """Return composition, number of sites, volume in Å³ and shortest distance in Å."""
    pair = close_pair(crystal.lattice, crystal.frac_coords, 12.0)
    return formula_of(crystal), crystal.num_atoms, crystal.volume, pair[2] if pair else np.inf


def atoms_in(path: Path) -> Any:
    return ase.io.read(path)


def read_by_pymatgen(path: Path) -> Crystal:
    if path.suffix == ".cif":
        parser = CifParser(path, occupancy_tolerance=1.02, site_tolerance=1e-3)
        return Crystal.from_structure(parser.parse_structures(primitive=False)[0])
    if path.suffix == ".json":
        return Crystal.from_structure(Structure.from_dict(json.loads(path.read_text())))
    return Crystal.from_structure(AseAtomsAdaptor.get_structure(atoms_in(path)))


def originals(writer: str) -> Iterator[tuple[int, Structure]]:
    """Yield other structures of the sample for each writer."""
    sample = load_sample()
    small = np.flatnonzero(np.array([sample[row].num_atoms for row in range(len(sample))]) <= MAX_ATOMS)
    order = np.random.default_rng(12).permutation(small)
    first = list(WRITERS).index(writer) * NUM_EACH
    for row in order[first : first + NUM_EACH]:
        yield int(row), sample[int(row)].to_structure()


@pytest.mark.parametrize("writer", WRITERS)
def test_what_others_write_is_read_as_others_read_it(tmp_path: Path, writer: str) -> None:
    count = 0
    for row, structure in originals(writer):
        path = tmp_path / f"{row}.{writer.rpartition('.')[2]}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pymatgen, ASE and spglib about their own ways
            WRITERS[writer](structure, path)
            other = read_by_pymatgen(path)
        (reading,) = read_structures([path])
        assert reading.crystal is not None, (row, reading.reason)
        composition, sites, volume, shortest = facts(reading.crystal)
        expected = facts(other)
        assert (composition, sites) == expected[:2], row
        assert volume == pytest.approx(expected[2], rel=1e-5), row
        assert shortest == pytest.approx(expected[3], abs=2e-3), row
        if writer not in ("symmetric.cif", "refined.cif"):  # whose cells are conventional
            assert composition == formula_of(Crystal.from_structure(structure)), row
        count += 1
    assert count == NUM_EACH


REASONS = {"POSCAR_example_1": "the POSCAR has no symbols"}
"""Real files that are refused, and why: ASE does not read this one either without a POTCAR."""


def real_files() -> list[Path]:
    """Return the CIFs and POSCARs among the test files of installed packages."""
    spec = importlib.util.find_spec("ase")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "test" / "testdata"
    return sorted([*folder.rglob("*.cif"), *folder.rglob("POSCAR*"), *folder.rglob("*.extxyz")])


def test_real_files_of_packages() -> None:
    files = real_files()
    if not files:
        pytest.skip("ASE is installed without its test files")
    for path in files:
        (reading,) = read_structures([path])
        if path.name in REASONS:
            assert REASONS[path.name] in reading.reason
            continue
        assert reading.crystal is not None, (path.name, reading.reason)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = Crystal.from_structure(AseAtomsAdaptor.get_structure(atoms_in(path)))
        composition, sites, volume, shortest = facts(reading.crystal)
        expected = facts(other)
        assert (composition, sites) == expected[:2], path.name
        assert volume == pytest.approx(expected[2], rel=1e-5), path.name
        assert shortest == pytest.approx(expected[3], abs=2e-3), path.name
