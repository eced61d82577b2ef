"""What was read as another crystal without a word: it is read rightly, or refused with both statements."""

import re
from pathlib import Path

import pytest

from tests.fixtures.structure_texts import cif_text, contents, cubic, reading_of

HALITE = "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5"
FCC = "loop_\n{tag}\nx,y,z\nx,y+1/2,z+1/2\nx+1/2,y,z+1/2\nx+1/2,y+1/2,z"
LABELS = "label fract_x fract_y fract_z"


# symmetry stands under a tag the reader does not know, and P 1 is assumed


@pytest.mark.parametrize(
    "statement",
    [
        "_space_group.name_H-M_alt 'F m -3 m'",
        "_space_group_name_H-M 'F m -3 m'",
        "_symmetry_space_group_name_H-M_alt 'F m -3 m'",
        "_symmetry_space_group_name_H-M_full 'F 4/m -3 2/m'",
        "_space_group_name_H-M_full 'F 4/m -3 2/m'\n_space_group_name_H-M_ref 'F m -3 m'",
        "_space_group_name_H-M_ref 'F m -3 m'",
        "_symmetry.space_group_name_H-M 'Fm-3m'",
        "_symmetry_space_group_name_H-M FM-3M",
        "_pd_phase_space_group 'F m -3 m'",
        "_symmetry_space_group_name_H-M 'F m 3 m'",
        "_space_group.IT_number 225",
        "_symmetry.Int_Tables_number 225",
        "_space_group_name_Hall '-F 4 2 3'",
        "_space_group.name_Hall '-F 4 2 3'",
        FCC.format(tag="_space_group_symop_xyz"),
        FCC.format(tag="_symmetry_equiv.pos_as_xyz"),
        FCC.format(tag="_space_group_symop.operation_xyz"),
        FCC.format(tag="_space_group_symmetry_operations"),
    ],
)
def test_symmetry_under_any_tag_is_applied(tmp_path: Path, statement: str) -> None:
    reading = reading_of(tmp_path, cif_text(cubic(5.64), HALITE, statement))
    assert contents(reading) == {"Na": 4, "Cl": 4}
    assert reading.established["symmetry"]
    assert "P 1" not in reading.established["symmetry"]


def test_p1_where_nothing_about_symmetry_is_stated(tmp_path: Path) -> None:
    reading = reading_of(tmp_path, cif_text(cubic(4.12), HALITE))
    assert contents(reading) == {"Na": 1, "Cl": 1}
    assert "nothing about symmetry is stated" in reading.established["symmetry"]
    assert not reading.warnings


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("_cell_formula_units_Z 4", "Z = 4.*P 1, as nothing"),
        ("_cell_formula_units_Z 4\n_chemical_formula_sum 'Na Cl'", "Z = 4 formula units 'Na Cl'.* give 1"),
        ("_exptl_crystal_density_meas 2.1", "measured density of 2.1 g/cm³.* give 0.54"),
        ("_pd_phase_symmetry_class 'Oh'", "tag _pd_phase_symmetry_class, which is not known"),
        ("loop_\n_atom_site_moment_label\n_atom_site_moment_crystalaxis_x\nNa1 1.0", "magnetic and modulated"),
        ("_exptl_crystal_density_diffrn 2.163", "density of 2.163 g/cm³.* give 0.54"),
        ("_chemical_formula_weight 58.44\n_cell_formula_units.Z 4", "Z = 4"),
        ("_space_group_crystal_system cubic", "crystal system is cubic, but it states no symmetry"),
        ("_symmetry_cell_setting cubic", "crystal system is cubic, but it states no symmetry"),
        ("_space_group_name_Schoenflies Oh^5", "tag _space_group_name_schoenflies, which is not known"),
        ("_space_group_entirely_new 'F m -3 m'", "tag _space_group_entirely_new, which is not known"),
        ("_space_group.magn_number_BNS 12.63", "magnetic and modulated"),
        (FCC.format(tag="_space_group_symop.magn_operation_xyz"), "magnetic and modulated"),
        ("loop_\n_atom_site_Fourier_wave_vector_seq_id\n1", "magnetic and modulated"),
        ("loop_\n_atom_site_displace_special_func_atom_site_label\nNa1", "magnetic and modulated"),
        ("_space_group_ssg_name 'Pmmm(0b0)000'", "magnetic and modulated"),
        ("_cell_modulation_dimension 1", "magnetic and modulated"),
    ],
)
def test_p1_against_the_evidence_is_refused(tmp_path: Path, statement: str, message: str) -> None:
    reading = reading_of(tmp_path, cif_text(cubic(5.64), HALITE, statement))
    assert reading.crystal is None
    assert re.search(message, reading.reason)


def test_p1_against_multiplicities_is_refused(tmp_path: Path) -> None:
    columns = "label type_symbol symmetry_multiplicity fract_x fract_y fract_z"
    sites = "Na1 Na 4 0 0 0\nCl1 Cl 4 0.5 0.5 0.5"
    reading = reading_of(tmp_path, cif_text(cubic(5.64), sites, columns=columns))
    assert "states 4 images of the site 'Na1' in the cell, but its symmetry (1 operations) makes 1" in reading.reason
    named = cif_text(cubic(5.64), sites, "_space_group_IT_number 225", columns)
    assert contents(reading_of(tmp_path, named)) == {"Na": 4, "Cl": 4}
    orders = named.replace("Na 4", "Na 48").replace("Cl 4", "Cl 48")  # the site symmetries', as SHELXL-97 wrote them
    assert contents(reading_of(tmp_path, orders)) == {"Na": 4, "Cl": 4}


def test_symmetry_in_a_block_without_atoms_is_not_passed_over(tmp_path: Path) -> None:
    text = "data_global\n_space_group_IT_number 225\n" + cif_text(cubic(5.64), HALITE)
    assert "the block 'global', which has no atoms, does" in reading_of(tmp_path, text).reason


# operations that are no symmetry of the cell are applied


@pytest.mark.parametrize(
    "statement",
    [
        "_space_group_IT_number 166",
        "_symmetry_space_group_name_H-M 'R -3 m H'",
        "_symmetry_space_group_name_H-M 'R -3 m'",
        "_symmetry_space_group_name_H-M 'R -3 m :R'",
        "_space_group_name_Hall '-R 3 2\"'",
    ],
)
def test_rhombohedral_groups_have_the_setting_of_the_cell(tmp_path: Path, statement: str) -> None:
    text = cif_text((4.75, 4.75, 4.75, 57.2, 57.2, 57.2), "Bi1 Bi 0.234 0.234 0.234", statement)
    assert contents(reading_of(tmp_path, text)) == {"Bi": 2}
    hexagonal = cif_text((4.55, 4.55, 11.86, 90, 90, 120), "Bi1 Bi 0 0 0.234", statement.replace(" :R", ""))
    assert contents(reading_of(tmp_path, hexagonal)) == {"Bi": 6}


@pytest.mark.parametrize(
    ("cell", "statement"),
    [
        ((5, 6, 7, 90, 90, 110), "_space_group_IT_number 14"),
        ((5, 6, 7, 90, 90, 110), "_symmetry_space_group_name_H-M 'P 21/c'"),
        ((5, 6, 7, 90, 110, 90), "_symmetry_space_group_name_H-M 'P 21/c 1 1'"),
        ((4, 5, 6, 90, 90, 90), "_symmetry_space_group_name_H-M 'P m -3 m'"),
        ((4, 4, 40, 90, 90, 90), "_symmetry_space_group_name_H-M 'P m -3 m'"),
        ((4, 4, 5, 90, 90, 110), "_symmetry_space_group_name_H-M 'P 63/m m c'"),
        ((5, 6, 7, 90, 90, 95), "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,y,-z"),
        ((5, 6, 7, 90, 90, 90), "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\ny,x,z"),
    ],
)
def test_operations_that_do_not_keep_the_cell_are_refused(
    tmp_path: Path, cell: tuple[float, ...], statement: str
) -> None:
    reading = reading_of(tmp_path, cif_text(cell, "Si1 Si 0.1 0.2 0.3", statement))
    assert "does not keep its lengths and angles" in reading.reason
    assert reading.crystal is None


def test_a_cell_that_is_a_little_distorted_is_a_warning(tmp_path: Path) -> None:
    cell = (4, 4, 4.018, 90, 90, 90)
    reading = reading_of(tmp_path, cif_text(cell, "Po1 Po 0 0 0", "_space_group_IT_number 221"))
    assert contents(reading) == {"Po": 1}
    assert any("lengths and angles within" in warning for warning in reading.warnings)


@pytest.mark.parametrize("sites", ["H1 H 0.1 0.2 0.3", "Si1 Si 0 0 0\nSi2 Si 0.3 0.3 0.3"])
def test_never_less_than_one_and_a_half_cubic_angstrom_an_atom(tmp_path: Path, sites: str) -> None:
    symmetry = "_space_group_IT_number 195" if "H1" in sites else ""
    reading = reading_of(tmp_path, cif_text(cubic(2.2 if symmetry else 1.4), sites, symmetry))
    assert "Å³ per atom, expected at least 1.5" in reading.reason


# statements about the group contradict one another


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("_symmetry_space_group_name_H-M 'F m -3 m'\n_space_group_IT_number 227", "'F m -3 m', but it also is '227'"),
        ("_symmetry_space_group_name_H-M 'F m -3 m'\n_space_group_name_Hall '-P 4 2 3'", "Hall symbol|but it also is"),
        (
            "_symmetry_space_group_name_H-M 'F m -3 m'\nloop_\n_symmetry_equiv_pos_as_xyz\nx,y,z",
            r"space group is 'F m -3 m' \(number 225\), but its 1 symmetry operation is those of number 1",
        ),
        (
            "_space_group_IT_number 1\n" + FCC.format(tag="_symmetry_equiv_pos_as_xyz").replace("x,y+1/2", "-x,y+1/2"),
            "no group",
        ),
        ("_symmetry_space_group_name_H-M 'P n m a'\n_space_group_name_H-M_alt 'P b n m'", "in other settings"),
        (
            "_space_group_crystal_system tetragonal\n_space_group_IT_number 225",
            "system is tetragonal, but its symmetry is cubic",
        ),
    ],
)
def test_two_statements_about_the_group_that_differ_are_refused(tmp_path: Path, statement: str, message: str) -> None:
    reading = reading_of(tmp_path, cif_text(cubic(5.64), HALITE, statement))
    assert reading.crystal is None
    assert re.search(message, reading.reason)


def test_a_number_alone_is_the_standard_setting_and_a_warning(tmp_path: Path) -> None:
    text = cif_text((5, 6, 7, 90, 90, 90), "Si1 Si 0.1 0.2 0.3", "_space_group_IT_number 62")
    reading = reading_of(tmp_path, text)
    assert contents(reading) == {"Si": 8}
    assert "its standard setting P n m a is taken" in reading.warnings[0]


# a label or type is read as an element it is not


@pytest.mark.parametrize(
    ("sites", "columns", "message"),
    [
        ("Nb,Zr1 0 0 0", LABELS, "'Nb,Zr1' names Nb and Zr"),
        ("Fe/Ni1 0 0 0", LABELS, "'Fe/Ni1' names Fe and Ni"),
        ("C/N1 0 0 0", LABELS, "'C/N1' names C and N"),
        ("FE/NI1 0 0 0", LABELS, "'FE/NI1' names Fe and Ni"),
        ("CN1 0 0 0", LABELS, "'CN1' may name C"),
        ("SO4 0 0 0\nNa1 0.5 0.5 0.5", LABELS, "'SO4' may name S"),
        ("H2O 0 0 0", LABELS, "'H2O' may name H"),
        ("FeNi1 0 0 0", LABELS, "'FeNi1' names Fe and Ni"),
        ("Fe0.5Ni0.5 0 0 0", LABELS, "names Fe and Ni"),
        ("T1 0 0 0\nO1 0.5 0.5 0.5", LABELS, "'T1' may be any tetrahedral one"),
        ("T1 T 0 0 0\nO1 O 0.5 0.5 0.5", "label type_symbol fract_x fract_y fract_z", "'T1'.* tetrahedral"),
        ("NH4 0 0 0\nCl1 0.5 0.5 0.5", LABELS, "'NH4' may name N with hydrogen"),
        ("OH1 0 0 0\nMg1 0.5 0.5 0.5", LABELS, "'OH1' may name O with hydrogen"),
        ("O1 0.5 0.5 0.5\nHO1 0.26 0.5 0.5", LABELS, "'HO1' may name Ho or H"),
        ("CO1 0 0 0\nNa1 0.5 0.5 0.5", LABELS, "'CO1' may name Co or C"),
        ("Tet1 0 0 0", LABELS, "'Tet1' is not an element"),
        ("M1 0 0 0", LABELS, "'M1' is not an element"),
        ("N1 NH4 0 0 0\nCl1 Cl 0.5 0.5 0.5", "label type_symbol fract_x fract_y fract_z", "'N1'.*'NH4' is not"),
        ("P1 PO4 0 0 0\nNa1 Na 0.5 0.5 0.5", "label type_symbol fract_x fract_y fract_z", "'P1'.*'PO4' may name"),
        ("M1 Fe/Ni 0 0 0", "label type_symbol fract_x fract_y fract_z", "'M1'.*names Fe and Ni"),
        ("Fe1 Ni 0 0 0", "label type_symbol fract_x fract_y fract_z", "label is 'Fe1', but its type symbol is 'Ni'"),
    ],
)
def test_a_site_that_names_two_elements_or_none_is_refused(
    tmp_path: Path, sites: str, columns: str, message: str
) -> None:
    reading = reading_of(tmp_path, cif_text(cubic(4), sites, columns=columns))
    assert reading.crystal is None
    assert re.search(message, reading.reason)


@pytest.mark.parametrize(
    ("sites", "formula", "expected"),
    [
        ("O1 0 0 0\nHO1 0.24 0 0\nHO2 0 0.24 0", "H2 O", {"H": 2, "O": 1}),
        ("HO1 0 0 0\nO1 0.5 0.5 0.5", "Ho O", {"Ho": 1, "O": 1}),
        ("CO1 0 0 0\nO1 0.5 0.5 0.5", "Co O", {"Co": 1, "O": 1}),
        ("CO1 0 0 0\nO1 0.3 0 0", "C O", {"C": 1, "O": 1}),
        ("NH4 0 0 0\nH1 0.2 0 0", "N H", {"N": 1, "H": 1}),
        ("T1 0 0 0\nLi1 0.5 0.5 0.5", "Li T", {"H": 1, "Li": 1}),
    ],
)
def test_the_formula_decides_between_readings_of_a_label(
    tmp_path: Path, sites: str, formula: str, expected: dict[str, float]
) -> None:
    text = cif_text(cubic(4), sites, f"_chemical_formula_sum '{formula}'", LABELS)
    assert contents(reading_of(tmp_path, text)) == expected


def test_capitals_throughout_are_elements_of_two_letters(tmp_path: Path) -> None:
    text = cif_text(cubic(4), "CO1 0 0 0\nMG1 0.5 0.5 0.5\nNI2 0.5 0 0.5", columns=LABELS)
    assert contents(reading_of(tmp_path, text)) == {"Co": 1, "Mg": 1, "Ni": 1}


@pytest.mark.parametrize(("symbol", "warned"), [("Es", True), ("Ar", True), ("Na", False)])
def test_elements_beyond_98_and_gases_are_a_warning(tmp_path: Path, symbol: str, warned: bool) -> None:
    cif = reading_of(tmp_path, cif_text(cubic(4), f"{symbol}1 {symbol} 0 0 0"))
    poscar = reading_of(tmp_path, f"x\n1.0\n4 0 0\n0 4 0\n0 0 4\n{symbol}\n1\nDirect\n0 0 0\n", "POSCAR")
    for reading in (cif, poscar):
        assert contents(reading) == {symbol: 1}
        assert any(symbol in warning for warning in reading.warnings) == warned


def test_a_label_of_a_site_letter_beside_another_type_is_a_warning_at_most(tmp_path: Path) -> None:
    reading = reading_of(tmp_path, cif_text(cubic(4), "B1 Ti 0 0 0\nW1 O 0.5 0.5 0.5"))
    assert contents(reading) == {"Ti": 1, "O": 1}
    assert "label is 'B1', but its type symbol is 'Ti'; the type symbol counts" in reading.warnings[0]


def test_half_occupied_atoms_beside_a_symmetry_element_stay_two(tmp_path: Path) -> None:
    columns = "label type_symbol fract_x fract_y fract_z occupancy"
    text = cif_text(cubic(5), "Na1 Na 0.03 0 0 0.5\nCl1 Cl 0.5 0.5 0.5 1", "_space_group_IT_number 2", columns)
    assert contents(reading_of(tmp_path, text)) == {"Na": 1, "Cl": 1}


def test_alternatives_are_not_all_there(tmp_path: Path) -> None:
    columns = "label type_symbol fract_x fract_y fract_z disorder_assembly disorder_group"
    sites = "Na1 Na 0 0 0 . .\nCl1 Cl 0.5 0.5 0.5 A 1\nCl2 Cl 0.5 0.5 0.7 A 2"
    reading = reading_of(tmp_path, cif_text(cubic(5), sites, columns=columns))
    assert "disorder groups '1' and '2' of assembly 'A' are alternatives" in str(reading.reason)
    kept = reading_of(tmp_path, cif_text(cubic(5), sites.replace("0.7 A 2", "0.7 B 1"), columns=columns))
    assert contents(kept) == {"Na": 1, "Cl": 2}
    sites = "Na1 Na 0 0 0 . . 1\nCl1 Cl 0.5 0.5 0.5 A 1 0.6\nCl2 Cl 0.5 0.5 0.7 A 2 0.4"
    reading = reading_of(tmp_path, cif_text(cubic(5), sites, columns=f"{columns} occupancy"))
    assert contents(reading) == pytest.approx({"Na": 1, "Cl": 1})
