"""A hundred files that no reader should trip over, and what each is expected to be told."""

import gzip
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

GOOD = """\
data_good
_cell_length_a 4.2
_cell_length_b 4.2
_cell_length_c 4.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Mg1 Mg 0 0 0
O1 O 0.5 0.5 0.5
"""
"""A CIF that is right."""
POSCAR = "Mg O\n1.0\n4.2 0 0\n0 4.2 0\n0 0 4.2\nMg O\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
"""A POSCAR that is right."""
FRAME = '2\nLattice="4.2 0 0 0 4.2 0 0 0 4.2" Properties=species:S:1:pos:R:3 pbc="T T T"\nMg 0 0 0\nO 2.1 2.1 2.1\n'
"""A frame of extended XYZ that is right."""
LATTICE = {"matrix": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]]}
SITE = {"species": [{"element": "Mg", "occu": 1}], "abc": [0, 0, 0]}
STRUCTURE = {"lattice": LATTICE, "sites": [SITE]}
"""A pymatgen structure that is right."""
ODD_NAMES = (
    "new\nline.cif",
    "-rf.cif",
    "--output.cif",
    "=cmd|' C calc'!A0.cif",
    "+1+1.cif",
    "@SUM(A1).cif",
    'quote"comma,semicolon;.cif',
    "tab\there.cif",
    "carriage\rreturn.cif",
    "\x1b[31mred\x07.cif",
    "emoji🧂.cif",
    os.fsdecode(b"\xff\xfe.cif"),
    "x" * 240 + ".cif",
    " .cif",
    "%s%n$(touch owned)`id`.cif",
    "\u202egnp.cif",
)
"""Names that confuse spreadsheets, terminals and shells; their contents are right."""


def write_hostile(folder: Path) -> list[Path]:
    """Write the files and return their paths; none of them holds a structure that can be predicted."""
    made = [*_texts(folder), *_binaries(folder), *_bombs(folder), *_tricks(folder)]
    assert len(made) == len(set(made))
    return made


def _texts(folder: Path) -> list[Path]:
    changed: dict[str, str] = {
        "empty.cif": "",
        "blank.cif": "\n \n\t\n",
        "prose.cif": "This is not a structure.\n",
        "only_data.cif": "data_x\n",
        "no_atoms.cif": GOOD.partition("loop_")[0],
        "no_cell.cif": "data_x\nloop_" + GOOD.partition("loop_")[2],
        "nan_x.cif": GOOD.replace("Mg1 Mg 0 0 0", "Mg1 Mg nan 0 0"),
        "inf_x.cif": GOOD.replace("Mg1 Mg 0 0 0", "Mg1 Mg inf 0 0"),
        "huge_x.cif": GOOD.replace("Mg1 Mg 0 0 0", "Mg1 Mg 1e400 0 0"),
        "word_x.cif": GOOD.replace("Mg1 Mg 0 0 0", "Mg1 Mg zero 0 0"),
        "question_x.cif": GOOD.replace("Mg1 Mg 0 0 0", "Mg1 Mg ? ? ?"),
        "nan_cell.cif": GOOD.replace("_cell_length_a 4.2", "_cell_length_a nan"),
        "zero_cell.cif": GOOD.replace("_cell_length_a 4.2", "_cell_length_a 0"),
        "negative_cell.cif": GOOD.replace("_cell_length_a 4.2", "_cell_length_a -4.2"),
        "tiny_cell.cif": GOOD.replace("4.2", "1e-30"),
        "flat_angle.cif": GOOD.replace("_cell_angle_gamma 90", "_cell_angle_gamma 180"),
        "impossible_angles.cif": GOOD.replace("90", "150"),
        "unknown_species.cif": GOOD.replace("Mg1 Mg", "Xx1 Xx"),
        "unknown_number.cif": GOOD.replace("Mg1 Mg", "Q99 999"),
        "heavy_element.cif": GOOD.replace("Mg1 Mg", "Es1 Es"),
        "overlap.cif": GOOD.replace("0.5 0.5 0.5", "0 0 0.001"),
        "short_loop.cif": GOOD.replace("O1 O 0.5 0.5 0.5", "O1 O 0.5"),
        "open_quote.cif": GOOD.replace("O1 O", "'O1 O"),
        "open_text.cif": GOOD + ";\nnever closed\n",
        "bad_operation.cif": GOOD + "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,q'\n",
        "code_operation.cif": GOOD + "loop_\n_symmetry_equiv_pos_as_xyz\n'__import__(\"os\").abort(),y,z'\n",
        "occupancy.cif": GOOD.replace("_fract_z\n", "_fract_z\n_atom_site_occupancy\n").replace("0.5\n", "0.5 7\n"),
        "short.vasp": "\n".join(POSCAR.splitlines()[:7]),
        "nan.vasp": POSCAR.replace("0.5 0.5 0.5", "nan 0.5 0.5"),
        "word.vasp": POSCAR.replace("4.2 0 0", "four 0 0"),
        "million.vasp": POSCAR.replace("1 1", "1000000 1"),
        "billion.vasp": POSCAR.replace("1 1", "9" * 40 + " 1"),
        "negative.vasp": POSCAR.replace("1 1", "-1 1"),
        "unknown.vasp": POSCAR.replace("Mg O", "Zz O"),
        "singular.vasp": POSCAR.replace("0 4.2 0", "4.2 0 0"),
        "no_mode.vasp": POSCAR.replace("Direct", "Sideways"),
        "POSCAR": "",
        "CONTCAR_1": "1\n2\n3\n",
        "million.extxyz": FRAME.replace("2\n", "1000000\n", 1),
        "cut.extxyz": FRAME.replace("2\n", "20\n", 1),
        "no_cell.xyz": "1\nplain\nMg 0 0 0\n",
        "nan.xyz": FRAME.replace("2.1 2.1 2.1", "nan 2.1 2.1"),
        "unknown.xyz": FRAME.replace("Mg", "Zz"),
        "prose.xyz": "two atoms\n",
        "zero.xyz": "0\nnothing\n",
        "column.xyz": FRAME.replace("pos:R:3", "pos:R:300"),
        "slab.xyz": FRAME.replace('"T T T"', '"T T F"'),
        "empty.json": "",
        "cut.json": json.dumps(STRUCTURE)[:60],
        "number.json": "42",
        "null.json": "null",
        "empty_list.json": "[]",
        "empty_object.json": "{}",
        "deep.json": "[" * 100_000,
        "digits.json": "[" + "9" * 100_000 + "]",
        "text.json": '"data_x"',
        "no_sites.json": json.dumps({"lattice": LATTICE, "sites": []}),
        "no_lattice.json": json.dumps({"sites": [SITE]}),
        "bad_lattice.json": json.dumps({"lattice": {"matrix": [[1, 2], [3]]}, "sites": [SITE]}),
        "nan.json": json.dumps(STRUCTURE).replace("[0, 0, 0]", "[NaN, 0, 0]", 1),
        "module.json": json.dumps({"@module": "os", "@class": "system", "command": "touch owned"}),
        "unknown.json": json.dumps(STRUCTURE).replace("Mg", "Zz"),
        "wrong_types.json": json.dumps({"lattice": [], "sites": {}}),
        "many.json": json.dumps({"lattice": LATTICE, "sites": [SITE] * 30_000}),
        "slab.json": json.dumps({**STRUCTURE, "lattice": {**LATTICE, "pbc": [True, True, False]}}),
    }
    for name, text in changed.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in changed]


def _binaries(folder: Path) -> list[Path]:
    noise = random.Random(0).randbytes(4096)
    content = {
        "noise.cif": noise,
        "noise.vasp": noise,
        "noise.xyz": noise,
        "noise.json": noise,
        "noise.db": noise,
        "zeros.cif": bytes(100_000),
        "null_inside.cif": GOOD.encode().replace(b"Mg1", b"M\0g"),
        "utf16_cut.cif": GOOD.encode("utf-16")[:-1],
        "picture.cif": b"\x89PNG\r\n\x1a\n" + noise,
        "program.cif": b"\x7fELF" + noise,
        "pickle.json": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
        "latin.vasp": POSCAR.encode().replace(b"Mg O", b"M\xe9 O"),
        "cut_sqlite.db": b"SQLite format 3\0" + bytes(60),
        "no_sqlite.db": b"hello\n",
        "one_line.xyz": b"1" * 3_000_000,
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in content]


def _bombs(folder: Path) -> list[Path]:
    """Files that unpack to far more than they are, and files that hold far more than they may."""
    zeros = gzip.compress(bytes(100 * 2**20), compresslevel=9)
    with zipfile.ZipFile(folder / "bomb.cif", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.cif", bytes(100 * 2**20))
    (folder / "bomb.cif.gz").write_bytes(zeros)
    (folder / "nested.cif.gz").write_bytes(gzip.compress(zeros))
    (folder / "hidden_bomb.json").write_bytes(zeros)
    (folder / "cut.cif.gz").write_bytes(gzip.compress(GOOD.encode())[:-10])
    (folder / "wrong_sum.cif.gz").write_bytes(
        gzip.compress(GOOD.encode())[:-8] + struct.pack("<II", 1, zlib.crc32(b""))
    )
    atoms = "".join(f"Mg{n} Mg 0.{n % 997:03} 0.{n % 991:03} 0.{n % 983:03}\n" for n in range(10**6))
    (folder / "million.cif").write_text(GOOD.partition("Mg1")[0] + atoms)
    with (folder / "sparse.cif").open("wb") as file:
        file.truncate(2**34)
    names = ("bomb.cif", "bomb.cif.gz", "nested.cif.gz", "hidden_bomb.json", "cut.cif.gz", "wrong_sum.cif.gz")
    return [folder / name for name in (*names, "million.cif", "sparse.cif")]


def _tricks(folder: Path) -> list[Path]:
    """Paths that are no files, or lead in circles; a folder called x.cif holds nothing."""
    (folder / "self.cif").symlink_to(folder / "self.cif")
    (folder / "ping.cif").symlink_to(folder / "pong.cif")
    (folder / "pong.cif").symlink_to(folder / "ping.cif")
    (folder / "dangling.cif").symlink_to(folder / "nowhere")
    (folder / "zero.cif").symlink_to("/dev/zero")
    (folder / "terminal.cif").symlink_to("/dev/tty")
    os.mkfifo(folder / "pipe.cif")
    (folder / "folder.cif").mkdir()
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    secret = folder / "secret.cif"
    secret.write_text("unreadable, and nothing in it either\n")
    secret.chmod(0)
    names = ("self.cif", "ping.cif", "pong.cif", "dangling.cif", "zero.cif", "terminal.cif", "pipe.cif", "secret.cif")
    extra: list[Callable[[], Path]] = [lambda: folder / "folder.cif"]
    return [*(folder / name for name in names), *(make() for make in extra)]
