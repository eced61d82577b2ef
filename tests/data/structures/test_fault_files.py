"""Structure files that were once read wrongly, in ``fixtures/faults``: what is right for each, or its refusal."""

from pathlib import Path

import pytest

from crystalframer.data.structures.files import read_structures
from tests.fixtures.structure_texts import contents

FAULTS = Path(__file__).parents[2] / "fixtures" / "faults"
Amounts = dict[str, float]
HALITE: Amounts = {"Na": 4, "Cl": 4}
CSCL: Amounts = {"Cs": 1, "Cl": 1}
DIAMOND: Amounts = {"C": 2}
BISMUTH: Amounts = {"Bi": 2}
RIGHT: dict[str, Amounts | str] = {
    # symmetry stands under a tag the reader does not know, and P 1 is assumed
    "cif/d01_magn_old_tags.cif": "magnetic and modulated",
    "cif/d02_dot_spacegroup.cif": HALITE,
    "cif/d03_name_HM_plain.cif": HALITE,
    "cif/d04_symmetry_name_alt.cif": HALITE,
    "cif/d05_name_full.cif": HALITE,
    "cif/d07_symop_xyz.cif": HALITE,
    "cif/d26_modulated.cif": "magnetic and modulated",
    "cif/d26b_ssg.cif": "magnetic and modulated",
    # operations that are no symmetry of the cell are applied
    "cif/c11e_R_number_57.cif": BISMUTH,
    "cif/c11f_R_hall_rhomb.cif": BISMUTH,
    "cif/c12_mono_c_number.cif": "does not keep its lengths and angles",
    "cif/c12b_mono_c_name.cif": "does not keep its lengths and angles",
    "cif/c12d_cubic_ops_ortho.cif": "does not keep its lengths and angles",
    "cif/c12e_cubic_typo.cif": "does not keep its lengths and angles",
    "cif/e32_mono_name.cif": "does not keep its lengths and angles",
    # a label or type is read as an element it is not
    "cif/c05_label_two.cif": "'Nb,Zr1'",
    "cif/c05b_label_slash.cif": "'Fe/Ni1'",
    "cif/c05c_label_T.cif": "'T1'",
    "cif/c05d_label_HO.cif": "'HO1'",
    "cif/c05e_label_HO_formula.cif": {"H": 2, "O": 1},
    "cif/d19_NH4_label.cif": "'NH4'",
    "cif/d20_M_T_type.cif": "'T1'",
    "cif/d22_type_NH4.cif": "'NH4'",
    # occupancy 0 refuses the file
    "cif/c14_zero_occ_site.cif": CSCL,
    "cif/c14b_endmember.cif": {"Fe": 2},
    # byte order mark
    "cif/c17_bom.cif": CSCL,
    "xyz/x02_bom.extxyz": CSCL,
    # name before suffix
    "cif/CONTCAR.cif": CSCL,
    "cif/POSCAR_CsCl.cif": CSCL,
    # `.` as a coordinate
    "cif/d08_dot_zero.cif": {"K": 1, "Mn": 1, "F": 3},
    # H-M name or operations `?` hide a known number
    "cif/c28b_name_dot_number.cif": CSCL,
    "cif/c27c_P1_ops_unknown.cif": CSCL,
    # harmless repetition
    "cif/c15_dup_tag.cif": CSCL,
    "cif/c15b_dup_block.cif": CSCL,
    "cif/c15c_dup_cell_tag.cif": CSCL,
    "cif/c27_dup_ops.cif": CSCL,
    # formula in brackets, volume 0
    "cif/c21b_formula_paren.cif": {"Mg": 1, "O": 2, "H": 2},
    "cif/c21d_formula_comma.cif": {"Cs": 0.5, "Rb": 0.5, "Cl": 1},
    "cif/c22b_vol_formulaunit.cif": HALITE,
    # POSCAR dialects
    "poscar/POSCAR_p01_hash_comment": DIAMOND,
    "poscar/POSCAR_p01b_symbol_bang": DIAMOND,
    "poscar/POSCAR_p03_vasp4_trailing": CSCL,
    "poscar/POSCAR_p04_scale_comment": CSCL,
    "poscar/POSCAR_p06_fractional_word": CSCL,
    "poscar/POSCAR_p07b_counts_wrapped": {"Li": 1, "Na": 1, "K": 1, "Rb": 1},
    "poscar/POSCAR_p13_blank_first": CSCL,
    "poscar/POSCAR_p14_latin1": CSCL,
    "poscar/POSCAR_p14c_latin1_angstrom": CSCL,
    "poscar/blank_title.txt": CSCL,
    "xyz/x04_latin1.extxyz": CSCL,
    # extXYZ `energy="_JSON -1.5"` of an older ASE
    "xyz/x07_json_energy.extxyz": CSCL,
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right(name: str) -> None:
    expected = RIGHT[name]
    readings = list(read_structures([FAULTS / name]))
    assert len(readings) == (2 if name == "cif/c15b_dup_block.cif" else 1)
    for reading in readings:
        if isinstance(expected, str):
            assert reading.crystal is None
            assert expected in reading.reason
        else:
            assert contents(reading) == expected


def test_every_file_has_its_right_value() -> None:
    assert {str(path.relative_to(FAULTS)) for path in FAULTS.glob("*/*")} == set(RIGHT)


def test_the_energy_of_an_older_ase_is_a_number() -> None:
    (reading,) = read_structures([FAULTS / "xyz" / "x07_json_energy.extxyz"])
    assert reading.properties == {"energy": -1.5}
