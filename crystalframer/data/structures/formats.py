"""One function a file format: from bytes to crystals, or to the reason why there is none."""

import ast
import json
import math
import re
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from itertools import accumulate, islice
from typing import Any

import numpy as np

from crystalframer.data.structures.cif import VOLUME_TOLERANCE, read_cif
from crystalframer.data.structures.elements import element_of, strange_elements
from crystalframer.data.structures.json_layouts import named_records, parsed, structure_key
from crystalframer.data.structures.poscar import read_poscar_text
from crystalframer.data.structures.reading import Reading
from crystalframer.data.structures.space_groups import cell_parameters
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.occupancies import occupied_sites

PARSE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    sqlite3.Error,
)
"""What third-party parsers raise on damaged files; here alone is it turned into a reason, naming type and message."""
MAX_OFFSET = 0.05
"""Å between a site's place by fractional and by Cartesian coordinates."""
MIN_VOLUME_PER_ATOM = 1.5
"""Å³; diamond has 5.7, hydrogen at the pressures of giant planets about 2."""
_OF_FRAMES = ("lattice", "properties", "pbc")
"""Keys of an extended XYZ frame that mean the same in capitals."""
MAX_REPR = 2**22
"""Longest dictionary as Python prints it, in characters."""
MAX_SITES = 10**6
"""Atoms that a CIF's symmetry may expand to before special positions are merged."""
ID_KEYS = ("id", "material_id", "entry_id", "jid", "name", "file", "filename")
"""Where a record or frame may say which structure it is, in this order."""


@dataclass(frozen=True)
class ReadLimits:
    """What a file may ask for before it is refused."""

    max_bytes: int = 64 * 2**20
    """Of a file, unpacked; of one frame where frames are read one by one."""
    max_atoms: int = 20_000
    """Atoms of one structure, after its symmetry operations."""
    max_seconds: float = 60.0
    """Time for one file where files are read by several processes."""


def describe(error: BaseException) -> str:
    """Return an error as one short line; ours speak for themselves, foreign ones are named by their type."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) and text else f"{text or 'malformed'} ({type(error).__name__})"


def read_cif_file(text: str, limits: ReadLimits) -> Iterator[Reading]:
    """Read every block of a CIF that holds atoms; the blocks' names count where there are several."""
    for reading in read_cif(text, MAX_SITES, 2 * limits.max_atoms):
        yield _limited(reading, limits)


def read_poscar(text: str, limits: ReadLimits) -> Iterator[Reading]:
    """Read a POSCAR or CONTCAR."""
    yield _limited(read_poscar_text(text, limits.max_atoms), limits)


def read_extxyz(lines: Iterator[str], limits: ReadLimits) -> Iterator[Reading]:
    """Read extended XYZ frame by frame; a frame needs its cell (``Lattice=``)."""
    for line in lines:
        line = line.removeprefix("\ufeff")
        if not line.strip():
            continue
        if not line.strip().isdecimal() or len(line) > 20:
            start = f"a frame begins with {line[:20]!r}, expected its number of atoms"
            yield Reading(reason=f"{start}: the rest is not read")
            return
        count = int(line)
        if count > limits.max_atoms or count == 0:
            yield Reading(reason=f"a frame has {count} atoms, expected 1 to {limits.max_atoms}: the rest is not read")
            return
        frame = [line, *islice(lines, count + 1)]
        try:
            if len(frame) != count + 2:
                raise UserError(f"the last frame has {len(frame) - 2} of {count} atoms: the file is cut off")
            yield _parse_frame(frame, limits)
        except PARSE_ERRORS as error:
            yield Reading(reason=describe(error))


def read_json(text: str, limits: ReadLimits) -> Iterator[Reading]:
    """Read structures as pymatgen writes them, or records that hold one, in any of the layouts of `json_layouts`."""
    for name, entry in named_records(text):
        yield parse_record(entry, limits, name)


def parse_record(entry: Any, limits: ReadLimits, name: str = "") -> Reading:
    """Read a pymatgen structure dictionary, or a record that holds a structure, its targets beside it."""
    if not isinstance(entry, dict):
        return Reading(reason=f"a record is {type(entry).__name__}, expected an object", name=name)
    try:
        key = structure_key(entry)
    except UserError as error:
        return Reading(reason=str(error), name=name)
    properties = {} if key is None else {name: value for name, value in entry.items() if name != key}
    reading = parse_structure(entry if key is None else entry[key], limits)
    return replace(reading, name=name or name_in(properties), properties=properties)


def parse_structure(value: Any, limits: ReadLimits) -> Reading:
    """Read a structure however a table holds it: a pymatgen dictionary, its JSON, a CIF, a POSCAR.

    The dictionary is read here and not by pymatgen's decoder, which imports whatever classes it names.
    """
    try:
        return _limited(_read_value(value, limits), limits)
    except PARSE_ERRORS as error:
        return Reading(reason=describe(error))


def from_atoms(atoms: Any, limits: ReadLimits, name: str = "", properties: Mapping[str, Any] | None = None) -> Reading:
    """Take over ASE's atoms: a cell, periodic along all three vectors, no partial occupancies."""
    properties = dict(atoms.info) if properties is None else properties
    reading = Reading(name=name_in(properties) or name, properties=properties)
    if not (atoms.cell.rank == 3 and bool(np.all(atoms.pbc))):
        reason = "the structure has no cell, or is not periodic along all three of its vectors"
        return replace(reading, reason=reason)
    if "occupancy" in atoms.info:
        return replace(reading, reason="partial occupancies in ASE's form are not read: give the CIF")
    try:
        crystal = Crystal(np.array(atoms.cell), atoms.get_scaled_positions(wrap=False), atoms.numbers.astype(np.int64))
    except UserError as error:
        return replace(reading, reason=describe(error))
    return _limited(replace(reading, crystal=crystal), limits)


def name_in(properties: Mapping[str, Any]) -> str:
    """Return the id that a record's or frame's own values give it, or an empty string."""
    for key in ID_KEYS:
        value = properties.get(key)
        if isinstance(value, Mapping):  # how the Materials Project's documents write an id
            value = value.get("string")
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return str(value)[:200]
    return ""


def sniff(text: str) -> str:
    """Guess a text's format from how it begins: cif, json, extxyz, poscar, or an empty string."""
    begin = text[:4096].removeprefix("\ufeff")
    head = begin.lstrip()
    if re.search(r"^\s*data_", head, re.MULTILINE) or "_cell_length_a" in text[:65536]:
        return "cif"
    if head[:1] in ("{", "["):
        return "json"
    lines = head.splitlines()
    if lines and lines[0].strip().isdecimal():
        return "extxyz"
    vectors = [line.split()[:3] for line in begin.split("\n")[2:5]]  # the title may be blank
    if len(vectors) == 3 and all(len(row) == 3 and all(_is_number(word) for word in row) for row in vectors):
        return "poscar"
    return ""


TEXT_READERS: dict[str, Callable[[str, ReadLimits], Iterator[Reading]]] = {
    "cif": read_cif_file,
    "poscar": read_poscar,
    "json": read_json,
}
"""Readers of formats whose files are read whole."""


def _read_value(value: Any, limits: ReadLimits) -> Reading:
    if isinstance(value, str):
        if value.lstrip()[:1] == "{":
            return _read_value(_dictionary(value), limits)
        reader = read_cif_file if sniff(value) == "cif" else read_poscar
        first, *others = [*islice(reader(value, limits), 2)] or [Reading(reason="the text holds no structure")]
        more = ("the text holds several structures; the first one counts",) if others else ()
        return replace(first, warnings=(*first.warnings, *more))
    if not isinstance(value, dict):
        raise UserError(f"a structure is {type(value).__name__}, expected a pymatgen dictionary, its JSON or a CIF")
    if "lattice_mat" in value:
        from crystalframer.data.structures.records import record_to_crystal

        return Reading(crystal=record_to_crystal({"atoms": value}, ""))
    if "lattice" not in value or "sites" not in value:
        raise UserError("a structure has no 'lattice' and 'sites'")
    if not all(value["lattice"].get("pbc") or (True,)):
        raise UserError("the structure is not periodic along all three lattice vectors")
    sites = value["sites"]
    if not isinstance(sites, list) or not 0 < len(sites) <= limits.max_atoms:
        raise UserError(f"the structure has {len(sites)} atoms, expected 1 to {limits.max_atoms}")
    entries = [
        (index, element_of(_field(specie, "element")), specie.get("occu", 1.0))
        for index, site in enumerate(sites)
        for specie in _field(site, "species")
    ]
    numbers, mixture = occupied_sites(*zip(*entries, strict=True))
    coords = np.array([_field(site, "abc") for site in sites])
    crystal = Crystal(_field(value["lattice"], "matrix"), coords, numbers, mixture=mixture)
    _check_dictionary(crystal, value["lattice"], [site.get("xyz") for site in sites])
    return Reading(crystal=crystal)


def _check_dictionary(crystal: Crystal, cell: Mapping[str, Any], places: list[Any]) -> None:
    """Compare matrix and fractional coordinates with what stands beside them: volume, lengths, angles, places in Å."""
    volume, stated = cell.get("volume"), [cell.get(name) for name in ("a", "b", "c", "alpha", "beta", "gamma")]
    if all(isinstance(number, int | float) for number in stated):
        found = cell_parameters(crystal.lattice)
        if not np.allclose(found, np.array(stated, np.float64), rtol=VOLUME_TOLERANCE, atol=MAX_OFFSET):
            raise UserError("the lattice's matrix has other lengths or angles than stated beside it: one is wrong")
    if isinstance(volume, int | float) and abs(crystal.volume - volume) > VOLUME_TOLERANCE * abs(volume):
        raise UserError(
            f"the lattice's matrix has {crystal.volume:.6g} Å³, but its volume is given as {volume:.6g} Å³: "
            "one of them is wrong"
        )
    if all(isinstance(place, list) for place in places):
        if any(len(place) != 3 for place in places):
            raise UserError("a site's xyz does not have three numbers")
        offset = np.linalg.norm(np.array(places, dtype=np.float64) - crystal.cart_coords, axis=1)
        if offset.max() > MAX_OFFSET:
            site = int(offset.argmax())
            raise UserError(
                f"the places abc and xyz of site {site} are {offset[site]:.3g} Å apart: one of them is wrong"
            )


def _dictionary(text: str) -> Any:
    """Return the dictionary that a table's cell holds as JSON or, at most 4 MiB of it, as Python prints it."""
    try:
        return parsed(text)
    except json.JSONDecodeError as error:
        if len(text) > MAX_REPR:
            raise UserError(f"the structure's JSON is malformed: {error.msg}") from error
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError) as error:
        raise UserError("the structure is neither JSON nor a Python dictionary: write it with json.dumps") from error


def _field(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise UserError(f"a part of the structure has no {name!r}")
    return record[name]


def _parse_frame(frame: list[str], limits: ReadLimits) -> Reading:
    from ase.io import read

    if "lattice=" not in frame[1].lower():
        return Reading(reason="the frame has no cell (Lattice=), expected a periodic structure")
    if twice := _said_twice(frame[1]):
        return Reading(reason=f"the frame says {twice[:40]!r} twice: one of them is wrong")
    if _names_other_elements(frame):
        return Reading(reason="the frame's species and Z name different elements: one of them is wrong")
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        # ASE warns of unknown data types in comments; what is no number is no target anyway.
        warnings.simplefilter("ignore")
        atoms: Any = read(StringIO("".join(frame)), format="extxyz", index=0)
    properties = dict(atoms.info)
    if atoms.calc is not None:
        properties = dict(atoms.calc.results) | properties
    properties = {  # ASE reads the "_JSON -1.5" of its older versions as an array without dimensions
        key: value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
        for key, value in properties.items()
        if np.ndim(value) == 0 or key in atoms.info
    }
    return from_atoms(atoms, limits, properties=properties)


def _said_twice(comment: str) -> str:
    """Return a key that a frame's comment has twice, or an empty text; those in a value do not count."""
    unquoted = re.sub(r"\"[^\"]*\"|'[^']*'|\{[^{}]*\}|\[[^\[\]]*\]", "", comment)
    words = re.finditer(r"([^\s=]+)(\s*=)?", unquoted)  # each of which is passed over once, a key or not
    found = [word[1] for word in words if word[2]]
    keys = Counter(key.lower() if key.lower() in _OF_FRAMES else key for key in found)
    return next((key for key, count in keys.items() if count > 1), "")


def _names_other_elements(frame: list[str]) -> bool:
    """Return whether the columns `species` and `Z` of a frame, where it has both, differ."""
    found = re.search(r"properties\s*=\s*\"?([^\s\"]+)", frame[1], re.IGNORECASE)
    words = found[1].lower().split(":") if found else []
    ends = dict(zip(words[::3], accumulate(map(int, words[2::3])), strict=False))
    if not {"species", "z"} <= ends.keys():
        return False
    rows = (line.split() for line in frame[2:])
    return any(element_of(row[ends["species"] - 1]) != int(row[ends["z"] - 1]) for row in rows)


def _limited(reading: Reading, limits: ReadLimits) -> Reading:
    """Refuse a crystal that is too large or too dense; warn of elements that crystals hardly hold."""
    crystal = reading.crystal
    if crystal is None:
        return reading
    if crystal.num_atoms > limits.max_atoms:
        reason = f"the structure has {crystal.num_atoms} atoms, expected at most {limits.max_atoms}"
        return replace(reading, crystal=None, reason=reason)
    amount = float(crystal.amounts.sum())
    if crystal.volume < MIN_VOLUME_PER_ATOM * amount:
        reason = f"the cell has {crystal.volume / amount:.3g} Å³ per atom, expected at least {MIN_VOLUME_PER_ATOM:g}"
        return replace(reading, crystal=None, reason=f"{reason}: check the lattice (Å) and the symmetry")
    return replace(reading, warnings=(*reading.warnings, *strange_elements(crystal.elements)))


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
