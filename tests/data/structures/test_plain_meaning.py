"""What was refused or mangled though its meaning is plain."""

import re
from pathlib import Path
from typing import Any

import pytest

from crystalframer.data.structures.files import read_structures
from crystalframer.data.structures.formats import ReadLimits, parse_structure
from crystalframer.data.structures.reading import with_own_names
from tests.fixtures.structure_texts import cif_text, contents, cubic, reading_of

CSCL = "Cs1 Cs 0 0 0\nCl1 Cl 0.5 0.5 0.5"
OCCUPIED = "label type_symbol fract_x fract_y fract_z occupancy"
POSCAR = "x\n1.0\n4.12 0 0\n0 4.12 0\n0 0 4.12\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
FRAME = '2\nLattice="4.12 0 0 0 4.12 0 0 0 4.12" Properties=species:S:1:pos:R:3{}\nCs 0 0 0\nCl 2.06 2.06 2.06\n'
HAS_CSCL = {"Cs": 1, "Cl": 1}


# occupancy 0 refuses the file


@pytest.mark.parametrize(
    ("sites", "symmetry", "expected"),
    [
        ("Cs1 Cs 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1\nO1 O 0.5 0.5 0 0", "", HAS_CSCL),
        ("Fe1 Fe 0 0 0 1.0\nCr1 Cr 0 0 0 0.0", "_space_group_IT_number 229", {"Fe": 2}),
        ("Fe1 Fe 0 0 0 1.0\nXx1 Xx 0.5 0.5 0.5 0", "", {"Fe": 1}),
    ],
)
def test_a_site_or_species_of_occupancy_0_is_left_out(
    tmp_path: Path, sites: str, symmetry: str, expected: dict[str, float]
) -> None:
    text = cif_text(cubic(4.12), sites, symmetry, OCCUPIED)
    assert contents(reading_of(tmp_path, text)) == expected
    none = cif_text(cubic(4.12), "O1 O 0.5 0.5 0 0", columns=OCCUPIED)
    assert reading_of(tmp_path, none).reason == "the CIF lists no atoms"


# byte order mark


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.cif", cif_text(cubic(4.12), CSCL)), ("x.extxyz", FRAME.format("")), ("x.vasp", POSCAR), ("x.txt", POSCAR)],
)
def test_a_byte_order_mark_is_passed_over(tmp_path: Path, name: str, text: str) -> None:
    for content in (text, text.replace("\n", "\r\n")):
        assert contents(reading_of(tmp_path, b"\xef\xbb\xbf" + content.encode(), name)) == HAS_CSCL
        if not name.endswith("xyz"):  # whose frames are read one by one
            assert contents(reading_of(tmp_path, content.encode("utf-16"), name)) == HAS_CSCL


# name before suffix


@pytest.mark.parametrize("name", ["CONTCAR.cif", "POSCAR_CsCl.cif", "poscar-3.CIF"])
def test_the_suffix_counts_before_the_name(tmp_path: Path, name: str) -> None:
    assert contents(reading_of(tmp_path, cif_text(cubic(4.12), CSCL), name)) == HAS_CSCL
    assert contents(reading_of(tmp_path, POSCAR, Path(name).stem)) == HAS_CSCL


# `.` as a coordinate


def test_a_dot_is_a_coordinate_of_0_and_a_warning(tmp_path: Path) -> None:
    sites = "F1 F .5 . .\nK1 K .5 .5 .5\nMn1 Mn . . ."
    reading = reading_of(tmp_path, cif_text(cubic(4.19), sites, "_space_group_IT_number 221"))
    assert contents(reading) == {"F": 3, "K": 1, "Mn": 1}
    assert "given as '.'" in reading.warnings[0]


def test_fractions_are_coordinates(tmp_path: Path) -> None:
    text = cif_text((3.2, 3.2, 5.2, 90, 90, 120), "Mg1 Mg 1/3 2/3 1/4", "_space_group_IT_number 194")
    assert contents(reading_of(tmp_path, text)) == {"Mg": 2}


def test_fractions_are_occupancies(tmp_path: Path) -> None:
    text = cif_text(cubic(4.12), "Cs1 Cs 0 0 0 2/3\nRb1 Rb 0 0 0 1/3\nCl1 Cl 0.5 0.5 0.5 1", columns=OCCUPIED)
    assert contents(reading_of(tmp_path, text)) == pytest.approx({"Cs": 2 / 3, "Rb": 1 / 3, "Cl": 1})
    text = text.replace("1/3", "1/0")
    assert reading_of(tmp_path, text).reason == "_atom_site_occupancy is '1/0', expected a number"


# names or operations `?` hide a known number


@pytest.mark.parametrize(
    "statement",
    [
        "_symmetry_space_group_name_H-M ?\n_symmetry_Int_Tables_number 221",
        "_symmetry_space_group_name_H-M '?'\n_symmetry_Int_Tables_number 221",
        "_space_group_IT_number .\n_symmetry_space_group_name_H-M 'P m -3 m'",
        "loop_\n_symmetry_equiv_pos_as_xyz\n?\n_symmetry_Int_Tables_number 221",
        "loop_\n_symmetry_equiv_pos_as_xyz\n?",
    ],
)
def test_unknown_counts_as_absent(tmp_path: Path, statement: str) -> None:
    assert contents(reading_of(tmp_path, cif_text(cubic(4.12), CSCL, statement))) == HAS_CSCL


# harmless repetition


@pytest.mark.parametrize(
    "statement",
    [
        "_journal_year 1999\n_journal_year 2001",
        "_cell_volume 69.93\n_cell_volume 69.930",
        "_cell_volume 69.93\n_cell.volume 69.93",
        "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\nx,y,z",
        "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z\n'-X, -Y, -Z'\nx+1,y,z",
        "_chemical_name_common salt\n_chemical_name_common 'other salt'",
    ],
)
def test_harmless_repetition_is_read(tmp_path: Path, statement: str) -> None:
    assert contents(reading_of(tmp_path, cif_text(cubic(4.12), CSCL, statement))) == HAS_CSCL


def test_repetition_whose_values_differ_and_matter_is_refused(tmp_path: Path) -> None:
    reading = reading_of(tmp_path, cif_text(cubic(4.12), CSCL, "_cell_length_a 4.2"))
    assert "states _cell_length_a twice, '4.12' and '4.2'" in reading.reason


def test_two_blocks_of_one_name_are_two_crystals(tmp_path: Path) -> None:
    (tmp_path / "x.cif").write_text(cif_text(cubic(4.12), CSCL) + cif_text(cubic(4.2), CSCL))
    first, second = with_own_names(read_structures([tmp_path / "x.cif"]))
    assert contents(first) == contents(second) == HAS_CSCL
    assert [first.id, second.id] == ["x", "x#2"]


def test_a_site_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    reading = reading_of(tmp_path, cif_text(cubic(4.12), f"{CSCL}\nCs1 Cs 0 0 0"))
    assert contents(reading) == HAS_CSCL
    assert "'Cs1' is listed twice" in reading.warnings[0]


# formula in brackets, volume 0


@pytest.mark.parametrize("formula", ["Mg (O H)2", "(Cs,Rb) Cl", "Cs Cl . x(H2 O)", "Cs1-x Cl", "?", "CsCl, Q2", "salt"])
def test_a_formula_that_cannot_be_parsed_says_nothing(tmp_path: Path, formula: str) -> None:
    text = cif_text(cubic(4.12), CSCL, f"_chemical_formula_sum '{formula}'\n_cell_volume 0")
    assert contents(reading_of(tmp_path, text)) == HAS_CSCL


# POSCAR dialects


def poscar(**lines: str) -> str:
    """Return a POSCAR with some of its lines written differently."""
    parts = {"title": "x", "scale": "1.0", "symbols": "Cs Cl", "counts": "1 1", "mode": "Direct"} | lines
    first, second = (parts.get(row, place) for row, place in (("first", "0 0 0"), ("second", "0.5 0.5 0.5")))
    cell = "4.12 0 0\n0 4.12 0\n0 0 4.12"
    rows = (parts["title"], parts["scale"], cell, parts["symbols"], parts["counts"], parts["mode"], first, second)
    return "\n".join([*(row for place, row in enumerate(rows) if row or place != 3), ""])


@pytest.mark.parametrize(
    "lines",
    [
        {"symbols": "Cs Cl # the ions", "counts": "1 1 # one of each"},
        {"symbols": "Cs Cl ! the ions", "counts": "1 1 ! one of each", "mode": "Direct ! fractional"},
        {"symbols": "cs cl"},
        {"symbols": "CS CL"},
        {"symbols": "Cs+ Cl-"},
        {"symbols": "Cs_sv Cl_h/1a2b"},
        {"scale": "1.0 # scale"},
        {"scale": "1.0D0"},
        {"mode": "Fractional"},
        {"mode": "Selective dynamics\nFractional", "first": "0 0 0 T T F"},
        {"symbols": "Cs\nCl", "counts": "1\n1"},
        {"symbols": "Cs\nCl"},
        {"counts": "1\n1"},
        {"title": ""},
        {"title": "Cs1 Cl1", "symbols": "", "first": "0 0 0 Cs", "second": "0.5 0.5 0.5 Cl"},
        {"title": "Cs1 Cl1", "symbols": ""},
        {"title": "CsCl", "symbols": ""},
        {"title": "a relaxed cell", "symbols": "", "first": "0 0 0 Cs1", "second": "0.5 0.5 0.5 Cl1"},
        {"title": "Cs1 Cl1 from nowhere", "symbols": "", "first": "0 0 0 T T T Cs", "second": "0.5 0.5 0.5 F F F Cl"},
        {"title": "VASP 4", "symbols": "", "first": "0 0 0 # Cs", "second": "0.5 0.5 0.5 ! Cl"},
        {"title": "Müller cell"},
        {"title": "a = 4.12 Å"},
    ],
)
def test_poscars_of_many_dialects(tmp_path: Path, lines: dict[str, str]) -> None:
    for encoding in ("utf-8", "latin-1"):
        for name in ("POSCAR", "x.vasp", "x.txt"):
            reading = reading_of(tmp_path, poscar(**lines).encode(encoding), name)
            assert contents(reading) == HAS_CSCL
            assert reading.crystal is not None
            assert reading.crystal.volume == pytest.approx(4.12**3)
            assert not reading.warnings
            assert reading.established["elements"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"title": "K Br", "symbols": "", "first": "0 0 0 Cs", "second": "0.5 0.5 0.5 Cl"}, "title makes atom 1 K.*Cs"),
        ({"first": "0 0 0 Rb", "second": "0.5 0.5 0.5 Cl"}, "line of symbols makes atom 1 Cs, but its row names Rb"),
        ({"symbols": "", "title": "a comment"}, "has no symbols.*not an element"),
        ({"counts": "1 2"}, "12|10 lines"),
        ({"symbols": "Cs", "counts": "1"}, "line 10 holds another position than the counts tell"),
        ({"mode": "Oblique"}, "expected Direct or Cartesian"),
    ],
)
def test_poscars_that_contradict_themselves_are_refused(tmp_path: Path, lines: dict[str, str], message: str) -> None:
    reading = reading_of(tmp_path, poscar(**lines), "POSCAR")
    assert reading.crystal is None
    assert re.search(message, reading.reason)


def test_a_title_of_other_elements_is_a_warning(tmp_path: Path) -> None:
    reading = reading_of(tmp_path, poscar(title="K1 Br1"), "POSCAR")
    assert contents(reading) == HAS_CSCL
    assert "'K1 Br1' names other elements than the line of symbols" in reading.warnings[0]


def test_of_several_structures_in_one_text_the_first_counts_and_a_warning_says_so() -> None:
    text = cif_text(cubic(4.12), CSCL)
    assert not parse_structure(text, ReadLimits()).warnings
    reading = parse_structure(text + cif_text(cubic(4.2), CSCL).replace("data_x", "data_y"), ReadLimits())
    assert contents(reading) == HAS_CSCL
    assert reading.warnings == ("the text holds several structures; the first one counts",)


# extXYZ of older ASE versions, other encodings, ids


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        (' energy="_JSON -1.5" pbc="T T T"', {"energy": -1.5}),
        (' energy=-1.5 gap="_JSON 2"', {"energy": -1.5, "gap": 2}),
        (' relaxed="_JSON true" method="_JSON \\"PBE\\""', {"relaxed": True, "method": "PBE"}),
        (' author="Müller" energy=-1.5', {"energy": -1.5, "author": "Müller"}),
    ],
)
def test_comments_of_extended_xyz(tmp_path: Path, comment: str, expected: dict[str, Any]) -> None:
    for encoding in ("utf-8", "latin-1"):
        reading = reading_of(tmp_path, FRAME.format(comment).encode(encoding), "x.extxyz")
        assert contents(reading) == HAS_CSCL
        assert dict(reading.properties) == expected


def test_the_id_of_a_frame_is_its_id_everywhere(tmp_path: Path) -> None:
    (tmp_path / "x.extxyz").write_text(FRAME.format(" id=salt") + FRAME.format(" id=salt") + FRAME.format(""))
    readings = list(with_own_names(read_structures([tmp_path / "x.extxyz"])))
    assert [reading.id for reading in readings] == ["salt", "salt#2", "x#3"]
    assert [reading.crystal and reading.crystal.id for reading in readings] == ["salt", "salt#2", "x#3"]
