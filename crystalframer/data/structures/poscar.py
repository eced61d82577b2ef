"""Crystals from VASP's POSCAR and CONTCAR files, strict about what a guess would change."""

import re

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.structures.cif import NUMBER_OF
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal


def read_poscar_text(text: str, max_atoms: int) -> Crystal:
    """Read a POSCAR: VASP 5 and later, or VASP 4 with the symbols in the first line.

    Raises:
        UserError: it is malformed, or no valid crystal.
        ArithmeticError: its numbers leave the range of numbers.
    """
    lines = text.splitlines()
    with np.errstate(all="raise", under="ignore"):
        lattice, factor = _lattice(lines)
        numbers, mode = _numbers(lines, max_atoms)
        coords = _floats(lines, mode + 1, len(numbers), "an atom's coordinates")
        kind = lines[mode].strip()[:1].lower()
        if kind in ("c", "k"):
            coords = np.linalg.solve(lattice.T, (coords * factor).T).T.astype(np.float64)
        elif kind != "d":
            raise UserError(f"line {mode + 1} is {lines[mode][:20]!r}, expected Direct or Cartesian")
        return Crystal(lattice, coords, numbers)


def _lattice(lines: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lattice, and the scale of Cartesian coordinates: one number, or one for each of x, y and z."""
    words = lines[1].split() if len(lines) > 1 else []
    try:
        factor = np.array([float(word) for word in words])
    except ValueError as error:
        raise UserError(f"line 2 is {lines[1][:20]!r}, expected a scale") from error
    if len(factor) not in (1, 3) or (len(factor) == 3 and (factor <= 0).any()) or (factor == 0).any():
        raise UserError(f"line 2 holds the scale {words[:4]}, expected one number or three above 0")
    lattice = _floats(lines, 2, 3, "a lattice vector")
    if factor[0] < 0:  # the volume
        volume = abs(float(np.linalg.det(lattice)))
        if volume == 0:
            raise UserError("the lattice vectors lie in a plane")
        factor = (-factor / volume) ** (1 / 3)
    return lattice * factor, factor


def _numbers(lines: list[str], max_atoms: int) -> tuple[NDArray[np.int64], int]:
    """Return the atomic numbers, and the index of the line that says Direct or Cartesian."""
    if len(lines) < 8:
        raise UserError(f"the POSCAR has {len(lines)} lines, expected at least 8: it is cut off")
    has_symbols = not re.match(r"\s*\d", lines[5])
    symbols = [re.split("[_/]", word)[0] for word in lines[5 if has_symbols else 0].split()]
    row = 6 if has_symbols else 5
    words = lines[row].split("!")[0].split()
    if not words or not all(word.isdecimal() and len(word) < 9 for word in words) or len(words) != len(symbols):
        raise UserError(f"the symbols {symbols[:9]} and counts {words[:9]} do not fit together")
    unknown = [symbol for symbol in symbols if symbol not in NUMBER_OF]
    if unknown:
        raise UserError(f"{unknown[0]!r} is not an element")
    counts = [int(word) for word in words]
    if not 0 < sum(counts) <= max_atoms:
        raise UserError(f"the structure has {sum(counts)} atoms, expected 1 to {max_atoms}")
    mode = row + (2 if lines[row + 1].strip()[:1] in ("S", "s") else 1)
    if mode + sum(counts) >= len(lines):
        raise UserError(f"the POSCAR has {len(lines)} lines, expected {mode + 1 + sum(counts)}: it is cut off")
    return np.repeat(np.array([NUMBER_OF[symbol] for symbol in symbols], dtype=np.int64), counts), mode


def _floats(lines: list[str], first: int, count: int, what: str) -> NDArray[np.float64]:
    """Return `count` lines of three numbers."""
    rows = []
    for number in range(first, first + count):
        line = lines[number] if number < len(lines) else ""
        try:
            row = [float(word) for word in line.split()[:3]]
        except ValueError:
            row = []
        if len(row) != 3:
            raise UserError(f"line {number + 1} is {line[:40]!r}, expected {what}: three numbers")
        rows.append(row)
    return np.array(rows)
