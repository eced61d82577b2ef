"""Mutated CIF, POSCAR, extended XYZ and JSON files.

Files that state the same in several ways are damaged at one place or at several. Reading must not raise, not take
longer than `limits.MAX_SECONDS`, not end in an error of our own code, and where the file was damaged at one place only,
not give another composition or volume without a warning. Every input that ever failed stays in `CORPUS`, and is tried
first.
"""

import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalframer.data.structures.files import read_structures
from crystalframer.data.structures.formats import ReadLimits
from crystalframer.data.structures.reading import Reading
from tests.fixtures.structure_texts import formula_of
from tests.fuzz.limits import attempted

WORDS = ("0", "1", "-1", "4", "1e9", "nan", "?", ".", "1/3", "Fe", "CO", "NH4", "Fe/Ni", "T", "x,y,z", "225", "loop_")
"""What a word of a file may become."""
CORPUS = Path(__file__).with_name("corpus")
"""Inputs that failed once, one a file; its name begins with the name of its seed."""
LIMITS = ReadLimits(max_bytes=2**20, max_atoms=2000)
OUR_ERRORS = (
    "(IndexError)",
    "(KeyError)",
    "(TypeError)",
    "(AttributeError)",
    "(AssertionError)",
    "(UnboundLocalError)",
)
"""How a reason ends that is a fault of the reader of CIFs or POSCARs; others' readers may say it of damaged files."""
VOLUME_TOLERANCE = 0.021

_RUTILE = """data_rutile
_chemical_formula_sum 'O2 Ti'
_chemical_formula_weight 79.866
_cell_formula_units_Z 2
_cell_length_a 4.594
_cell_length_b 4.594
_cell_length_c 2.959
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_cell_volume 62.449
_space_group_IT_number 136
_symmetry_space_group_name_H-M 'P 42/m n m'
_exptl_crystal_density_diffrn 4.247
loop_
_space_group_symop_operation_xyz
'x, y, z'
'-x, -y, z'
'-y+1/2, x+1/2, z+1/2'
'y+1/2, -x+1/2, z+1/2'
'-x+1/2, y+1/2, -z+1/2'
'x+1/2, -y+1/2, -z+1/2'
'y, x, -z'
'-y, -x, -z'
'-x, -y, -z'
'x, y, -z'
'y+1/2, -x+1/2, -z+1/2'
'-y+1/2, x+1/2, -z+1/2'
'x+1/2, -y+1/2, z+1/2'
'-x+1/2, y+1/2, z+1/2'
'-y, -x, z'
'y, x, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_symmetry_multiplicity
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Ti1 Ti4+ 2 0 0 0 1
O1 O2- 4 0.3049 0.3049 0 1
"""
_BISMUTH = """data_bismuth
_chemical_formula_sum Bi
_cell_formula_units_Z 6
_cell_length_a 4.546
_cell_length_b 4.546
_cell_length_c 11.862
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_cell_volume 212.3
_space_group_name_H-M_alt 'R -3 m :H'
_space_group_name_Hall '-R 3 2"'
_space_group_IT_number 166
_exptl_crystal_density_diffrn 9.807
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Bi1 0 0 0.2339
"""
_ALLOY = """data_alloy
_chemical_formula_sum 'Cs0.5 Rb0.5 Cl'
_cell_formula_units_Z 1
_cell_length_a 4.05
_cell_length_b 4.05
_cell_length_c 4.05
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_cell_volume 66.43
_symmetry_space_group_name_H-M 'P m -3 m'
_symmetry_Int_Tables_number 221
_exptl_crystal_density_diffrn 3.614
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cs1 Cs 0 0 0 0.5
Rb1 Rb 0 0 0 0.5
Cl1 Cl 0.5 0.5 0.5 1
"""
_POSCAR = """Cs1 Cl1
1.0
4.12 0.0 0.0
0.0 4.12 0.0
0.0 0.0 4.12
Cs Cl
1 1
Direct
0.0 0.0 0.0 Cs
0.5 0.5 0.5 Cl
"""
_FRAME = """2
Lattice="4.12 0.0 0.0 0.0 4.12 0.0 0.0 0.0 4.12" Properties=species:S:1:pos:R:3 energy=-1.5 pbc="T T T"
Cs 0.0 0.0 0.0
Cl 2.06 2.06 2.06
"""
_JSON = json.dumps(
    {
        "lattice": {
            "matrix": [[4.12, 0.0, 0.0], [0.0, 4.12, 0.0], [0.0, 0.0, 4.12]],
            "pbc": [True, True, True],
            "a": 4.12,
            "b": 4.12,
            "c": 4.12,
            "alpha": 90.0,
            "beta": 90.0,
            "gamma": 90.0,
            "volume": 69.934528,
        },
        "sites": [
            {"species": [{"element": "Cs", "occu": 1}], "abc": [0.0, 0.0, 0.0], "xyz": [0.0, 0.0, 0.0], "label": "Cs"},
            {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5] * 3, "xyz": [2.06] * 3, "label": "Cl"},
        ],
    },
    indent=1,
)


@dataclass(frozen=True)
class Seed:
    """A sound file, and what it states more than once."""

    text: str
    suffix: str
    composition: bool = True
    volume: bool = True


SEEDS = {
    "rutile": Seed(_RUTILE, ".cif"),
    "bismuth": Seed(_BISMUTH, ".cif"),
    "alloy": Seed(_ALLOY, ".cif"),
    "poscar": Seed(_POSCAR, ".vasp", volume=False),
    "frame": Seed(_FRAME, ".extxyz", composition=False, volume=False),
    "json": Seed(_JSON, ".json", composition=False),
}


def _swap_character(text: str, source: random.Random) -> str:
    place = source.randrange(len(text))
    return text[:place] + source.choice("0123456789.,-+'\"? \n_xyzABCHNOacl/()#;\x7f\u00e9") + text[place + 1 :]


def _drop_character(text: str, source: random.Random) -> str:
    place = source.randrange(len(text))
    return text[:place] + text[place + 1 :]


def _drop_line(text: str, source: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    del lines[source.randrange(len(lines))]
    return "".join(lines)


def _repeat_line(text: str, source: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    place = source.randrange(len(lines))
    return "".join([*lines[:place], lines[place], *lines[place:]])


def _swap_word(text: str, source: random.Random) -> str:
    words = text.split(" ")
    words[source.randrange(len(words))] = source.choice(
        [
            "0",
            "1",
            "-1",
            "1e9",
            "nan",
            "?",
            ".",
            "1/3",
            "Fe",
            "CO",
            "NH4",
            "Fe/Ni",
            "T",
            "x,y,z",
            "'P 1'",
            "loop_",
            "T T",
        ]
    )
    return " ".join(words)


def _cut(text: str, source: random.Random) -> str:
    return text[: source.randrange(len(text))]


def _repeat_part(text: str, source: random.Random) -> str:
    start = source.randrange(len(text))
    part = text[start : start + source.randint(1, 200)]
    return text[:start] + part * source.choice([2, 3, 100]) + text[start:]


SMALL: tuple[Callable[[str, random.Random], str], ...] = (
    _swap_character,
    _drop_character,
    _drop_line,
    _repeat_line,
    _swap_word,
)
LARGE = (*SMALL, _cut, _repeat_part)


@dataclass(frozen=True)
class Case:
    """A damaged file."""

    seed: str
    text: str
    single: bool
    """Whether it was damaged at one place only."""


def cases(number: int) -> Iterator[Case]:
    """Yield damaged files without end, the same ones for the same number."""
    source = random.Random(number)
    while True:
        name = source.choice(list(SEEDS))
        text, single = SEEDS[name].text, source.random() < 0.6
        for _ in range(1 if single else source.randint(2, 6)):
            text = source.choice(SMALL if single else LARGE)(text, source) or " "
        yield Case(name, text, single)


def corpus() -> Iterator[Case]:
    """Yield the inputs that failed once."""
    for path in sorted(CORPUS.glob("*.txt")):
        yield Case(path.name.partition("-")[0], path.read_bytes().decode(), "-single-" in path.name)


def problem_of(case: Case, folder: Path) -> str:
    """Read a damaged file; return what is wrong with how it was read, or an empty string."""

    seed = SEEDS[case.seed]
    path = folder / f"x{seed.suffix}"
    path.write_bytes(case.text.encode())
    readings, problem = attempted(lambda: list(read_structures([path], limits=LIMITS)))
    if problem or readings is None:
        return problem
    for reading in readings:
        if (reading.crystal is None) != bool(reading.reason):
            return "neither a crystal nor a reason"
        if seed.suffix in (".cif", ".vasp") and reading.reason.endswith(OUR_ERRORS):
            return f"an error of the reader: {reading.reason}"
    return _difference(case, seed, readings[0]) if case.single and len(readings) == 1 else ""


def _difference(case: Case, seed: Seed, reading: Reading) -> str:
    """Return how a crystal differs from the sound one though nothing warns of it."""
    crystal = reading.crystal
    if crystal is None or reading.warnings:
        return ""
    sound = _sound(case.seed)
    if seed.composition and formula_of(crystal) != formula_of(sound):
        return f"silently holds {formula_of(crystal)} in place of {formula_of(sound)}"
    if seed.volume and abs(crystal.volume / sound.volume - 1) > VOLUME_TOLERANCE:
        return f"silently has a volume of {crystal.volume:g} Å³ in place of {sound.volume:g} Å³"
    return ""


_SOUND: dict[str, Any] = {}


def _sound(name: str) -> Any:
    """Return the crystal of a file that is not damaged."""
    if name not in _SOUND:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"x{SEEDS[name].suffix}"
            path.write_text(SEEDS[name].text)
            (reading,) = read_structures([path])
        assert reading.crystal is not None, reading.reason
        assert not reading.warnings, reading.warnings
        _SOUND[name] = reading.crystal
    return _SOUND[name]


def keep(case: Case) -> Path:
    """Put an input that failed into the corpus."""
    digest = hashlib.sha256(case.text.encode()).hexdigest()[:12]
    CORPUS.mkdir(exist_ok=True)
    path = CORPUS / f"{case.seed}-{'single' if case.single else 'several'}-{digest}.txt"
    path.write_bytes(case.text.encode())
    return path
