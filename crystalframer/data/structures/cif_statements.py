"""What a CIF states about its content, compared with the content: formula, Z, multiplicities, mass and density."""

import math
import re

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalframer.data.structures.cif_block import Block, CifError
from crystalframer.data.structures.elements import NUMBER_OF
from crystalframer.geometry.crystal import ELEMENTS

DALTON = 1.66053907
"""Å³ · g/cm³ of one atomic mass unit."""
MEASURED = 0.7
"""Share of the density by the atoms that a measured one, of a porous or impure sample, may be."""
MASS_TOLERANCE, MASS_DOUBT = 0.10, 0.03
"""Relative deviation of the mass or density from the stated one: refused beyond, warned of beyond."""
_AMOUNT = r"(\d+\.?\d*|\.\d+)?(?:\(\d+\))?"
_FORMULA = re.compile(rf"(?:[A-Z][a-z]?\s*{_AMOUNT}[\s,]*)+")
_PART = re.compile(rf"([A-Z][a-z]?)\s*{_AMOUNT}")


def stated_formula(block: Block) -> tuple[str, dict[str, float]]:
    """Return the formula that a block states, as text and as amounts by symbol; one that cannot be parsed is none."""
    found = block.stated("_chemical_formula_sum")
    text = " ".join(found[0].split()) if found else ""
    if not text or not _FORMULA.fullmatch(text):
        return "", {}
    amounts: dict[str, float] = {}
    for symbol, amount in _PART.findall(text):
        if symbol not in NUMBER_OF:
            return "", {}
        amounts[symbol] = amounts.get(symbol, 0.0) + float(amount or 1)
    return (text, amounts) if sum(amounts.values()) > 0 else ("", {})


def check_formula(block: Block, numbers: NDArray[np.int64], occupancies: NDArray[np.float64]) -> None:
    """Compare the atoms of the cell with the formula: lost atoms, left-out hydrogens, a wrong symmetry.

    Raises:
        CifError: an element's share differs.
    """
    text, amounts = stated_formula(block)
    stated: dict[int, float] = {}
    for symbol, amount in amounts.items():
        stated[NUMBER_OF[symbol]] = stated.get(NUMBER_OF[symbol], 0.0) + amount
    if not stated:
        return
    found = {int(number): float(occupancies[numbers == number].sum()) for number in np.unique(numbers)}
    scale = sum(stated.values()) / sum(found.values())
    tolerance = 0.002 if (occupancies == 1).all() else 0.03
    for number in stated.keys() | found.keys():
        wanted, got = stated.get(number, 0.0), found.get(number, 0.0) * scale
        if abs(wanted - got) > tolerance * max(wanted, got) + 0.5 * tolerance:
            raise CifError(
                f"the file's formula is {text!r}, but its sites and symmetry give a different share of "
                f"{ELEMENTS[number - 1]}"
            )


def check_amount(
    block: Block, numbers: NDArray[np.int64], occupancies: NDArray[np.float64], volume: float, established: str
) -> list[str]:
    """Compare how much the cell holds with Z, the formula's weight and the density; return what is doubtful.

    Raises:
        CifError: one of them contradicts the sites and symmetry.
    """
    units = block.number("_cell_formula_units_z")
    total = float(occupancies.sum())
    text, amounts = stated_formula(block)
    ordered = bool((occupancies == 1).all())
    if math.isfinite(units) and units > 0:
        given = f"the file states Z = {units:g}"
        if amounts:
            found = total / sum(amounts.values())
            whole_cell = all((amount / units).is_integer() for amount in amounts.values())  # as pymatgen writes it
            found *= units if whole_cell and abs(found - 1) < 0.01 else 1
            if abs(found - units) > (0.01 if ordered else 0.05) * units:
                raise CifError(
                    f"{given} formula units {text!r}, but its sites and symmetry ({established}) give {found:.4g}"
                )
        elif ordered and units.is_integer():
            counts = np.unique(numbers, return_counts=True)[1]
            if (counts % int(units)).any():
                raise CifError(
                    f"{given}, but its sites and symmetry ({established}) give {', '.join(map(str, counts))} atoms of "
                    "its elements: one of them is wrong"
                )
    if (numbers == 1).any() or not volume > 0:
        return []  # deuterium is hydrogen here, of twice the mass
    mass = float(sum(occupancies * np.array([gemmi.Element(int(number)).weight for number in numbers])))
    weight = block.number("_chemical_formula_weight")
    found_density = DALTON * mass / volume
    warnings = []
    statements = [("density", block.number("_exptl_crystal_density_diffrn"), found_density, "g/cm³")]
    measured = block.number("_exptl_crystal_density_meas")
    if not measured > 0 or not MEASURED < found_density / measured < 1 / MEASURED:
        statements.append(("measured density", measured, found_density, "g/cm³"))
    if math.isfinite(units) and units > 0:
        statements.append(("formula weight times Z", weight * units, mass, "u"))
    for what, value, got, unit in statements:
        if not (math.isfinite(value) and value > 0):
            continue
        value = value / 1000 if unit == "g/cm³" and value > 100 else value  # kg/m³
        said = (
            f"the file states a {what} of {value:.4g} {unit}, but its sites and symmetry ({established}) give {got:.4g}"
        )
        if abs(got / value - 1) > MASS_TOLERANCE:
            raise CifError(said)
        if abs(got / value - 1) > MASS_DOUBT:
            warnings.append(said)
    return warnings


def check_multiplicities(
    block: Block, kept: list[int], labels: list[str], counts: NDArray[np.int64], order: int
) -> None:
    """Compare the number of images of the sites with the multiplicities that the block states.

    Args:
        block: what is read.
        kept: the rows of the sites.
        labels: their labels.
        counts: their images in the cell.
        order: number of symmetry operations.

    Raises:
        CifError: they differ, and are not the orders of the site symmetries either, which some programs write there.
    """
    for tag in ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity"):
        texts = block.texts(tag)
        if len(texts) <= max(kept):
            continue
        stated = np.array([float(gemmi.cif.as_number(texts[row])) for row in kept])
        known = np.isfinite(stated)
        if (stated[known] * counts[known] == order).all():
            continue
        for row in np.flatnonzero(known & (stated != counts)):
            raise CifError(
                f"the file states {stated[row]:g} images of the site {labels[row]!r} in the cell, but its symmetry "
                f"({order} operations) makes {counts[row]}: one of them is wrong"
            )
