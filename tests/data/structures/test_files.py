"""Every format of structure files: the right crystal, or a sentence saying why there is none."""

import contextlib
import gzip
import json
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from ase.io import write
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.io.vasp.inputs import Poscar

from crystalframer.data.structures.files import (
    FolderContent,
    find_structure_files,
    look_through,
    read_structures,
    unique_ids,
)
from crystalframer.data.structures.formats import ReadLimits
from crystalframer.data.structures.reading import Reading
from crystalframer.geometry.crystal import Crystal
from tests.fixtures.crystals import generic_crystal

SAME = StructureMatcher(ltol=1e-4, stol=1e-4, angle_tol=0.01, primitive_cell=False, scale=False)
TRICLINIC = np.array([[4.1, 0.1, 0.2], [0.3, 5.4, -0.4], [-0.2, 0.5, 6.8]])
COORDS = np.array([[0.02, 0.01, 0.03], [0.51, 0.46, 0.55], [0.5, 0.02, 0.1]])


def structure(*species: Any) -> Structure:
    return Structure(TRICLINIC, list(species or ("Na", "Cl", "O")), COORDS)


def rutile() -> Structure:
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )


def read_one(path: Path, **limits: Any) -> Reading:
    (result,) = read_structures([path], limits=ReadLimits(**limits))
    return result


def crystal_of(path: Path) -> Crystal:
    result = read_one(path)
    assert result.crystal is not None, result.reason
    return result.crystal


def reason_of(path: Path, **limits: Any) -> str:
    result = read_one(path, **limits)
    assert result.crystal is None
    assert result.reason
    return result.reason


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


CIF = """data_test
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
{symmetry}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{sites}
"""


def cif(tmp_path: Path, sites: str, symmetry: str = "") -> Path:
    return write_text(tmp_path / "test.cif", CIF.format(sites=sites, symmetry=symmetry))


# pymatgen's writer calls spglib in a way that spglib deprecates
@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
@pytest.mark.parametrize("original", [structure(), rutile(), structure({"Na": 0.5, "K": 0.5}, "Cl", {"O": 0.75})])
@pytest.mark.parametrize("symprec", [None, 0.01])
def test_cifs_as_pymatgen_writes_and_reads_them(tmp_path: Path, original: Structure, symprec: float | None) -> None:
    path = tmp_path / "a.cif"
    CifWriter(original, symprec=symprec).write_file(path)
    crystal = crystal_of(path)
    assert crystal.id == "a"
    assert SAME.fit(crystal.to_structure(), CifParser(path).parse_structures(primitive=False)[0])
    assert SAME.fit(crystal.to_structure(), original)


def test_a_cif_of_a_space_group_alone_and_of_rounded_special_positions(tmp_path: Path) -> None:
    hexagonal = """data_x
_cell_length_a 3.2
_cell_length_b 3.2
_cell_length_c 5.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_symmetry_space_group_name_H-M 'P 63/m m c'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Mg1 0.3333 0.6667 0.25
"""
    crystal = crystal_of(write_text(tmp_path / "hcp.cif", hexagonal))
    assert crystal.num_atoms == 2
    assert np.allclose(sorted(crystal.frac_coords[:, 2] % 1), [0.25, 0.75])
    by_number = hexagonal.replace("_symmetry_space_group_name_H-M 'P 63/m m c'", "_symmetry_Int_Tables_number 194")
    assert crystal_of(write_text(tmp_path / "number.cif", by_number)).num_atoms == 2


def test_positions_given_to_four_digits_do_not_split(tmp_path: Path) -> None:
    mirror = "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'y,x,z'"
    assert crystal_of(cif(tmp_path, "Na1 Na 0.2501 0.2499 0.1 1", mirror)).num_atoms == 1
    assert crystal_of(cif(tmp_path, "Na1 Na 0.40 0.10 0.1 1", mirror)).num_atoms == 2


def test_atoms_that_share_a_position_are_one_site(tmp_path: Path) -> None:
    crystal = crystal_of(cif(tmp_path, "Na1 Na1+ 0.1 0.1 0.1 0.6\nK1 K 0.1001 0.1 0.1 0.4\nCl Cl 0.6 0.6 0.6 1"))
    assert crystal.num_atoms == 2
    assert crystal.atomic_numbers.tolist() == [11, 17]
    assert crystal.mixture is not None
    assert crystal.mixture.elements.tolist() == [11, 19]
    assert crystal.mixture.weights.tolist() == [0.6, 0.4]
    across = crystal_of(cif(tmp_path, "Na1 Na 0.0001 0.1 0.1 0.6\nK1 K 0.9999 0.1 0.1 0.4"))
    assert across.num_atoms == 1  # across the cell's border


@pytest.mark.parametrize(
    ("sites", "symmetry", "message"),
    [
        ("Na1 Na 0.1 0.1 0.1 1\nCl1 Cl 0.1 0.1 0.1 1", "", "overlap"),
        ("Na1 Na 0.1 0.1 ? 1", "", "fractional coordinate"),
        ("Xx1 Xx 0.1 0.1 0.1 1", "", "'Xx' is not an element"),
        ("Wat1 Wat 0.1 0.1 0.1 1", "", "'Wat' is not an element"),
        ("OH1 OH 0.1 0.1 0.1 1", "", "'OH' is not an element"),
        ("Na1 Na 0.1 0.1 0.1 1", "_space_group_magn.number_BNS 1.1", "magnetic and modulated"),
        ("Na1 Na 0.1 0.1 0.1 1", "_cell_modulation_dimension 1", "magnetic and modulated"),
        ("Na1 Na 0.1 0.1 0.1 1.5", "", "occupancy is 1.5"),
        ("Na1 Na 0.1 0.1 0.1 0.8\nK1 K 0.1 0.1 0.1 0.8", "", "total occupancy of 1.6"),
        ("Na1 Na 0.1 0.1 1e9 1", "", "fractional coordinate is 1e[+]09"),
        ("Na1 Na 0.1 0.1 0.1 1", "_symmetry_space_group_name_H-M 'P 99/z'", "space group .* not known"),
        ("Na1 Na 0.1 0.1 0.1 1", "_symmetry_space_group_name_H-M 'F d -3 m'", "two origins"),
        ("Na1 Na 0.1 0.1 0.1 1", "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'y,z,x'", "no group"),
        ("Na1 Na 0.1 0.1 0.1 1", "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,q'", "operation is malformed"),
        ("Na1 Na 0.1 0.1 0.1 1", "_cell_volume 80", "volume is 64 .* states 80"),
        ("Na1 Na 0.1 0.1 0.1 1", "_chemical_formula_sum 'Na1 H2'", "different share of"),
    ],
)
def test_cifs_that_do_not_say_which_crystal_they_mean(tmp_path: Path, sites: str, symmetry: str, message: str) -> None:
    assert re.search(message, reason_of(cif(tmp_path, sites, symmetry)))


@pytest.mark.parametrize(
    ("label", "number"),
    [("Na1", 11), ("O1A", 8), ("OW1", 8), ("CA2", 20), ("H12B", 1), ("FE", 26), ("Cl", 17), ("D3", 1), ("CAB", 6)],
)
def test_labels_name_elements_where_there_are_no_type_symbols(tmp_path: Path, label: str, number: int) -> None:
    text = CIF.format(sites=f"{label} 0.1 0.1 0.1 1", symmetry="").replace("_atom_site_type_symbol\n", "")
    assert crystal_of(write_text(tmp_path / "label.cif", text)).atomic_numbers.tolist() == [number]


def test_symmetry_is_bounded_before_it_is_expanded(tmp_path: Path) -> None:
    sites = "\n".join(f"H{k} H {k / 6000:.6f} {k / 7919 % 1:.6f} {k / 104729 % 1:.6f} 1" for k in range(6000))
    start = time.perf_counter()
    reason = reason_of(cif(tmp_path, sites, "_symmetry_space_group_name_H-M 'F m -3 m'"))
    assert "6000 sites times 192 symmetry operations" in reason
    assert time.perf_counter() - start < 5


def test_several_blocks_are_several_crystals(tmp_path: Path) -> None:
    block = CIF.format(sites="Na1 Na 0.1 0.1 0.1 1", symmetry="")
    broken = block.replace("data_test", "data_other").replace("0.1 0.1 0.1", "0.1 0.1 ?")
    results = list(read_structures([write_text(tmp_path / "two.cif", block + broken + "data_text\n_journal x\n")]))
    assert [result.id for result in results] == ["two#1", "two#2"]
    assert [result.name for result in results] == ["test", "other"]
    assert results[0].crystal is not None
    assert results[1].crystal is None


@pytest.mark.parametrize("name", ["POSCAR", "CONTCAR_2", "a.vasp", "POSCAR-JVASP-1.vasp", "a.poscar"])
@pytest.mark.parametrize("direct", [True, False])
def test_poscars(tmp_path: Path, name: str, direct: bool) -> None:
    path = write_text(tmp_path / name, Poscar(structure()).get_str(direct=direct, significant_figures=12))
    assert SAME.fit(crystal_of(path).to_structure(), structure())


def test_poscars_of_all_dialects(tmp_path: Path) -> None:
    coords = "0 0 0\n0.5 0.5 0.5\n"
    plain = f"x\n2.0\n2 0 0\n0 2 0\n0 0 2\nNa_pv Cl/abc\n1 1\nSelective dynamics\nDirect\n{coords}"
    assert crystal_of(write_text(tmp_path / "POSCAR_1", plain)).volume == pytest.approx(64)
    assert crystal_of(write_text(tmp_path / "POSCAR_2", plain.replace("2.0\n", "-64\n", 1))).volume == pytest.approx(64)
    three = plain.replace("\n2.0\n", "\n2 2 3\n", 1)
    assert crystal_of(write_text(tmp_path / "POSCAR_3", three)).volume == pytest.approx(96)
    vasp4 = f"Na Cl\n2.0\n2 0 0\n0 2 0\n0 0 2\n1 1\nCartesian\n{coords}"
    crystal = crystal_of(write_text(tmp_path / "POSCAR_4", vasp4))
    assert crystal.atomic_numbers.tolist() == [11, 17]
    assert np.allclose(crystal.frac_coords[1], 0.25)  # Cartesian coordinates are scaled, too
    nameless = vasp4.replace("Na Cl\n", "a comment\n", 1)
    assert "not an element" in reason_of(write_text(tmp_path / "POSCAR_5", nameless))
    short = plain.removesuffix("0.5 0.5 0.5\n")
    assert "10 lines, expected 11" in reason_of(write_text(tmp_path / "POSCAR_6", short))


def atoms(seed: int) -> Atoms:
    crystal = generic_crystal(seed)
    return Atoms(crystal.atomic_numbers, cell=crystal.lattice, scaled_positions=crystal.frac_coords, pbc=True)


def test_extended_xyz_with_targets_and_a_frame_that_is_bad(tmp_path: Path) -> None:
    frames = [atoms(seed) for seed in range(4)]
    for number, frame in enumerate(frames):
        frame.info = {"id": f"m{number}", "bandgap": 0.5 * number, "split": "train"}
    frames[2].pbc = (True, True, False)
    path = tmp_path / "many.extxyz"
    write(path, frames)
    results = list(read_structures([path]))
    assert [result.id for result in results] == ["many#1", "many#2", "many#3", "many#4"]
    assert [result.name for result in results] == ["m0", "m1", "m2", "m3"]
    assert [result.properties["bandgap"] for result in results] == [0, 0.5, 1, 1.5]
    assert "not periodic" in results[2].reason
    for seed in (0, 1, 3):
        crystal = results[seed].crystal
        assert crystal is not None
        assert np.allclose(crystal.cart_coords, generic_crystal(seed).cart_coords, atol=1e-7)
    lines = path.read_text().splitlines(keepends=True)
    assert read_one(write_text(tmp_path / "one.xyz", "".join(lines[: int(lines[0]) + 2]))).id == "one"


def test_extended_xyz_without_a_cell_or_cut_off(tmp_path: Path) -> None:
    assert "no cell" in reason_of(write_text(tmp_path / "a.xyz", "1\ncomment\nH 0 0 0\n"))
    write(tmp_path / "b.extxyz", [atoms(1), atoms(2)])
    text = (tmp_path / "b.extxyz").read_text()
    results = list(read_structures([write_text(tmp_path / "c.extxyz", text[: text.rindex("\n", 0, -1)])]))
    assert results[0].crystal is not None
    assert "cut off" in results[1].reason
    assert "begins with" in reason_of(write_text(tmp_path / "d.extxyz", "no number\nx\n"))


def test_ase_databases(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    with connect(path) as database:  # type: ignore[no-untyped-call]
        for seed in range(3):
            database.write(atoms(seed), bandgap=0.5 * seed, data={"hidden": [1, 2]})
        database.write(Atoms("H", positions=[[0, 0, 0]]))
    results = list(read_structures([path]))
    assert [result.id for result in results] == ["mine#1", "mine#2", "mine#3", "mine#4"]
    assert [result.properties.get("bandgap") for result in results] == [0, 0.5, 1, None]
    assert "no cell" in results[3].reason
    assert "SQLite" in reason_of(write_text(tmp_path / "text.db", "no database"))
    damaged = bytearray(path.read_bytes())
    damaged[100:4096] = b"\xff" * 3996
    (tmp_path / "damaged.db").write_bytes(damaged)
    assert "damaged" in reason_of(tmp_path / "damaged.db") or "malformed" in reason_of(tmp_path / "damaged.db")


def test_databases_of_other_programs_are_left_as_they_are(tmp_path: Path) -> None:
    for number, script in enumerate(("create table trials(id integer)", "create table Systems(id integer)")):
        with contextlib.closing(sqlite3.connect(tmp_path / f"other{number}.db")) as database:
            database.execute(script)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert look_through(tmp_path) == FolderContent([], sorted(tmp_path.iterdir()))
    for path in sorted(tmp_path.iterdir()):
        assert reason_of(path) == "the file is a database of another program, expected ASE's table of systems"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_database_whose_query_never_ends(tmp_path: Path) -> None:
    path = tmp_path / "endless.db"
    with connect(path) as database:  # type: ignore[no-untyped-call]
        database.write(atoms(0))
    before = path.read_bytes()
    assert read_one(path).crystal is not None
    assert path.read_bytes() == before
    endless = "(with recursive n(x) as (select 1 union all select x + 1 from n) select x from n where x < 0)"
    with contextlib.closing(sqlite3.connect(path)) as script:
        script.execute("alter table information rename to told")
        script.execute(f"create view information as select * from told where value > {endless}")
        script.commit()
    started = time.process_time()
    assert "took too long to read (interrupted)" in reason_of(path, max_seconds=0.5)
    assert time.process_time() - started < 5
    with contextlib.closing(sqlite3.connect(path)) as script:
        script.execute("alter table systems rename to kept")
        script.execute(f"create view systems as select * from kept where id < {endless}")
        script.commit()
    assert "another program" in reason_of(path)


@pytest.mark.parametrize("shape", ["one", "list", "records", "by_id", "gzip"])
def test_pymatgen_json(tmp_path: Path, shape: str) -> None:
    first, second = structure(), structure({"Na": 0.5, "K": 0.5}, "Cl", {"O": 0.75})
    a, b = json.loads(first.to_json()), json.loads(second.to_json())
    content: Any = {
        "one": a,
        "list": [a, b],
        "records": [{"structure": a, "id": "x", "bandgap": 1.0}, {"structure": b, "id": "y", "bandgap": 2.0}],
        "by_id": {"x": a, "y": {"structure": b, "bandgap": 2.0}},
        "gzip": [a, b],
    }[shape]
    path = tmp_path / ("s.json.gz" if shape == "gzip" else "s.json")
    path.write_bytes(gzip.compress(json.dumps(content).encode()) if shape == "gzip" else json.dumps(content).encode())
    results = list(read_structures([path]))
    for result, want in zip(results, (first, second), strict=False):
        assert result.crystal is not None, result.reason
        assert SAME.fit(result.crystal.to_structure(), want)
    assert [result.id for result in results] == (["s"] if shape == "one" else ["s#1", "s#2"])
    assert [result.name for result in results] == {"records": ["x", "y"], "by_id": ["x", "y"]}.get(
        shape, [""] * len(results)
    )


def test_json_imports_no_class_that_it_names(tmp_path: Path) -> None:
    content = json.loads(structure().to_json())
    content["properties"] = {"@module": "subprocess", "@class": "Popen", "args": ["touch", str(tmp_path / "pwned")]}
    content["sites"][0]["properties"] = content["properties"]
    crystal_of(write_text(tmp_path / "evil.json", json.dumps(content)))
    assert not (tmp_path / "pwned").exists()


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.cif", "data_a\n" + "# x\n" * 1000)
    assert "more than 1000 bytes" in reason_of(path, max_bytes=1000)
    bomb = tmp_path / "bomb.cif.gz"
    bomb.write_bytes(gzip.compress(b"\n" * 10**8))
    assert "more than 1000000 bytes unpacked" in reason_of(bomb, max_bytes=10**6)
    assert "3 atoms, expected 1 to 2" in reason_of(
        write_text(tmp_path / "POSCAR", Poscar(structure()).get_str()), max_atoms=2
    )
    deep = write_text(tmp_path / "deep.json", "[" * 100_000)
    assert "RecursionError" in reason_of(deep)
    text = Poscar(Structure(np.eye(3) * 5, ["Na"], [[0, 0, 0]])).get_str().replace("5.0000000000000000", "1e300")
    assert "huge numbers" in reason_of(write_text(tmp_path / "huge.vasp", text))


def test_a_flat_cell_is_refused_at_once(tmp_path: Path) -> None:
    start = time.perf_counter()
    flat = "x\n1.0\n99999 0 0\n0 99999 0\n0 0 1e-9\nNa\n1\nDirect\n0 0 0\n"
    assert "on top of its own periodic image" in reason_of(write_text(tmp_path / "POSCAR", flat))
    assert time.perf_counter() - start < 5


def test_files_that_are_none(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "absent.cif") == "the file does not exist"
    assert reason_of(tmp_path) == "this is not a file"
    (tmp_path / "binary.cif").write_bytes(bytes(range(256)))
    assert "binary" in reason_of(tmp_path / "binary.cif")
    assert "format is unknown" in reason_of(write_text(tmp_path / "notes.txt", "hello"))
    assert "no block with atoms" in reason_of(write_text(tmp_path / "empty.cif", ""))
    (tmp_path / "broken.json.gz").write_bytes(gzip.compress(b"[1, 2, 3]")[:-4])
    assert reason_of(tmp_path / "broken.json.gz")


def test_a_format_is_recognised_without_its_suffix(tmp_path: Path) -> None:
    CifWriter(structure()).write_file(tmp_path / "cif.txt")
    write_text(tmp_path / "poscar.txt", Poscar(structure()).get_str())
    write_text(tmp_path / "json.txt", structure().to_json())
    write(tmp_path / "xyz.txt", atoms(1), format="extxyz")
    for name in ("cif.txt", "poscar.txt", "json.txt", "xyz.txt"):
        assert crystal_of(tmp_path / name).id == name


def test_ids_are_stems_made_unique_by_their_folders(tmp_path: Path) -> None:
    names = ["a/POSCAR", "b/POSCAR", "c.cif", "c.vasp", "d.cif.gz", "d/e.cif"]
    paths = [tmp_path / name for name in names]
    assert unique_ids(paths) == ["a/POSCAR", "b/POSCAR", "c.cif", "c.vasp", "d", "e"]
    assert unique_ids([paths[5], paths[5]]) == ["e.cif", "e.cif~2"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.cif").touch()
    assert find_structure_files(tmp_path) == sorted(paths)


def test_several_processes_give_the_same_in_the_same_order(tmp_path: Path) -> None:
    shifts = (0.0, 0.01, 0.02)
    texts = [Poscar(Structure(TRICLINIC + shift, ["Na", "Cl", "O"], COORDS)).get_str() for shift in shifts]
    paths = []
    for number in range(80):
        paths.append(tmp_path / f"s{number}.vasp")
        write_text(paths[-1], texts[number % 3] if number % 9 else "bad")
    one, two = (list(read_structures(paths, processes=count)) for count in (1, 2))
    assert [(r.id, r.reason, r.crystal is None) for r in one] == [(r.id, r.reason, r.crystal is None) for r in two]
    assert sum(r.crystal is None for r in two) == 9
    for a, b in zip(one, two, strict=True):
        if a.crystal is not None and b.crystal is not None:
            assert np.array_equal(a.crystal.frac_coords, b.crystal.frac_coords)


def test_a_file_that_takes_too_long_is_left(tmp_path: Path) -> None:
    paths = [write_text(tmp_path / f"s{k}.vasp", Poscar(structure()).get_str()) for k in range(64)]
    sites = "\n".join(f"H{k} H {k / 5000:.6f} {k / 79 % 1:.6f} {k / 97 % 1:.6f} 1" for k in range(5000))
    slow = cif(tmp_path, sites, "_symmetry_space_group_name_H-M 'F m -3 m'")
    results = list(read_structures([*paths[:32], slow, *paths[32:]], processes=2, limits=ReadLimits(max_seconds=0.5)))
    assert results[32].reason == "the file took more than 0.5 s to read"
    assert all(result.crystal is not None for result in [*results[:32], *results[33:]])


def test_a_file_that_kills_its_process_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_text(tmp_path / f"s{k}.vasp", Poscar(structure()).get_str()) for k in range(64)]
    # What the kernel does to a process that takes too much memory happens here when s20 is opened.
    killer = tmp_path / "site" / "sitecustomize.py"
    killer.parent.mkdir()
    write_text(
        killer,
        "import os, pathlib\n"
        "opened = pathlib.Path.open\n"
        "def open_or_die(self, *args, **kwargs):\n"
        "    if self.name == 's20.vasp':\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return opened(self, *args, **kwargs)\n"
        "pathlib.Path.open = open_or_die\n",
    )
    monkeypatch.setenv("PYTHONPATH", str(killer.parent))
    results = list(read_structures(paths, processes=2))
    assert [result.id for result in results] == [path.stem for path in paths]
    assert [result.id for result in results if result.crystal is None] == ["s20"]
    assert "killed its process" in results[20].reason
