"""Crystals from VASP's POSCAR and CONTCAR files, strict about what a guess would change."""

import re
from string import digits

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.structures.elements import NUMBER_OF, element_of
from crystalframer.data.structures.reading import Reading
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, Crystal


def read_poscar_text(text: str, max_atoms: int) -> Reading:
    """Read a POSCAR: VASP 5 and later, or VASP 4 with the symbols in the first line or behind the coordinates.

    Comments behind ``#`` or ``!`` are left out; lists of symbols and counts may go over several lines.

    Raises:
        UserError: it is malformed, or no valid crystal, or states two elements for an atom.
        ArithmeticError: its numbers leave the range of numbers.
    """
    title, *rest = text.split("\n")
    lines = [title.strip(), *(re.split("[#!]", line)[0].strip() for line in rest)]
    while lines and not lines[-1]:
        lines.pop()
    with np.errstate(all="raise", under="ignore"):
        lattice, factor = _lattice(lines)
        symbols, counts, mode = _header(lines, max_atoms)
        coords = _floats(lines, mode + 1, sum(counts), "an atom's coordinates")
        _require_end(lines, mode + 1 + sum(counts))
        behind = _symbols_behind(rest[mode : mode + sum(counts)])
        numbers, warnings = _numbers(symbols, _symbols_in_title(title, len(counts)), behind, counts, title)
        kind = lines[mode][:1].lower()
        if kind in ("c", "k"):
            coords = np.linalg.solve(lattice.T, (coords * factor).T).T.astype(np.float64)
        elif kind not in ("d", "f"):
            raise UserError(f"line {mode + 1} is {lines[mode][:20]!r}, expected Direct or Cartesian")
        origin = "line of symbols" if symbols else "symbols behind the coordinates" if behind else "title"
        established = {"elements": origin, "occupancies": "1, as the format has no others"}
        return Reading(crystal=Crystal(lattice, coords, numbers), warnings=warnings, established=established)


def _lattice(lines: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lattice, and the scale of Cartesian coordinates: one number, or one for each of x, y and z."""
    words = lines[1].split() if len(lines) > 1 else []
    try:
        factor = np.array([_float(word) for word in words])
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


def _header(lines: list[str], max_atoms: int) -> tuple[list[str], list[int], int]:
    """Return the symbols (none in VASP 4), the counts, and the index of the line that says Direct or Cartesian."""
    if len(lines) < 8:
        raise UserError(f"the POSCAR has {len(lines)} lines, expected at least 8: it is cut off")
    row, symbols, words = 5, list[str](), list[str]()
    while row < len(lines) and re.match(r"[A-Za-z]", lines[row]) and not words:
        symbols += lines[row].split()
        row += 1
    while row < len(lines) and re.fullmatch(r"[\d\s]+", lines[row]):
        words += lines[row].split()
        row += 1
        if symbols and len(words) >= len(symbols):
            break
    if not words or not all(len(word) < 9 for word in words) or (symbols and len(words) != len(symbols)):
        raise UserError(
            f"the symbols {symbols[:9]} and counts {(words or lines[row : row + 1])[:9]} do not fit together"
        )
    counts = [int(word) for word in words]
    if not 0 < sum(counts) <= max_atoms:
        raise UserError(f"the structure has {sum(counts)} atoms, expected 1 to {max_atoms}")
    mode = row + (1 if row < len(lines) and lines[row][:1] in ("S", "s") else 0)
    if mode + sum(counts) >= len(lines):
        raise UserError(f"the POSCAR has {len(lines)} lines, expected {mode + 1 + sum(counts)}: it is cut off")
    return [re.split("[_/]", symbol)[0] for symbol in symbols], counts, mode


def _numbers(
    symbols: list[str], title_symbols: list[str], behind: list[str], counts: list[int], title: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the atomic numbers, by the line of symbols, the rows or the title, once they agree."""
    warnings: tuple[str, ...] = ()
    stated = symbols or title_symbols
    if stated:
        numbers = np.repeat(np.array([element_of(symbol) for symbol in stated], dtype=np.int64), counts)
        for row, symbol in enumerate(behind):
            if NUMBER_OF[symbol] != numbers[row]:
                where = "line of symbols" if symbols else "title"
                raise UserError(
                    f"the {where} makes atom {row + 1} {ELEMENTS[numbers[row] - 1]}, but its row names {symbol}"
                )
        if symbols and title_symbols and {NUMBER_OF[symbol] for symbol in title_symbols} != set(numbers.tolist()):
            warnings = (
                f"the title {title.strip()[:40]!r} names other elements than the line of symbols, which counts",
            )
        return numbers, warnings
    if behind:
        return np.array([NUMBER_OF[symbol] for symbol in behind], dtype=np.int64), ()
    said = f"its title {title.strip()[:20]!r} is not an element for each of {len(counts)} counts"
    raise UserError(f"the POSCAR has no symbols: {said}")


def _symbols_in_title(title: str, count: int) -> list[str]:
    """Return the symbols of a title such as ``Cs Cl`` or ``Cs1 Cl1``, none where it is any other text."""
    words = re.split("[#!]", title)[0].split()
    if len(words) == 1 != count:
        words = re.findall(r"[A-Z][a-z]?\d*", words[0]) if re.fullmatch(r"(?:[A-Z][a-z]?\d*)+", words[0]) else []
    symbols = [re.split("[_/]", word)[0].rstrip(digits) for word in words]
    return symbols if len(symbols) == count and all(symbol in NUMBER_OF for symbol in symbols) else []


def _symbols_behind(rows: list[str]) -> list[str]:
    """Return the symbols behind coordinates and flags of selective dynamics, as comments or not; none unless in all."""
    symbols = []
    for row in rows:
        words = re.sub("[#!]", " ", row).split()[3:]
        words = (
            words[3:]
            if len(words) > 3 and all(word.strip(".")[:1].upper() in ("T", "F") for word in words[:3])
            else words
        )
        symbol = re.split("[_/]", words[0])[0].rstrip(f"{digits}+-") if words else ""  # Fe3, Fe3+
        symbols.append(symbol)
    return symbols if all(symbol in NUMBER_OF for symbol in symbols) else []


def _require_end(lines: list[str], row: int) -> None:
    """Raise a `UserError` where the positions go on: behind them stands a blank line, a heading or nothing."""
    words = lines[row].split()[:3] if row < len(lines) else []
    if len(words) == 3 and all(_is_float(word) for word in words):
        raise UserError(f"line {row + 1} holds another position than the counts tell: one of them is wrong")


def _float(word: str) -> float:
    """Return a number as Fortran writes it, 1.0D0 included."""
    return float(re.sub("[dD]", "e", word)) if re.fullmatch(r"[-+.\d]+[dD][-+\d]+", word) else float(word)


def _is_float(word: str) -> bool:
    try:
        _float(word)
    except ValueError:
        return False
    return True


def _floats(lines: list[str], first: int, count: int, what: str) -> NDArray[np.float64]:
    """Return `count` lines of three numbers."""
    rows = []
    for number in range(first, first + count):
        line = lines[number] if number < len(lines) else ""
        words = line.split()[:3]
        if len(words) != 3 or not all(_is_float(word) for word in words):
            raise UserError(f"line {number + 1} is {line[:40]!r}, expected {what}: three numbers")
        rows.append([_float(word) for word in words])
    return np.array(rows)
