"""One crystal: the lattice by ROWS in Å, fractional coordinates, atomic numbers; checked once, then immutable."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalframer.errors import UserError
from crystalframer.geometry.occupancies import Mixture, occupied_sites

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

MIN_DISTANCE = 0.1
"""Atoms (or an atom and its own periodic image) nearer than this, in Å, are on top of one another."""
MIN_VOLUME = MIN_DISTANCE**3
"""Smallest cell volume in Å³: a cube of `MIN_DISTANCE`."""

FEW = 64
"""Sites up to which all pairs are tried."""
CROWD = 1000
"""Sites beyond which it is looked for crowds before pairs are listed."""

MAX_LENGTH = 1e5
"""Longest component of a lattice vector in Å; more is no crystal, and its volume no number."""
MAX_FRAC_COORD = 1e6
"""Largest fractional coordinate; more leaves too few digits for the place within the cell."""

_SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr
Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
ELEMENTS: tuple[str, ...] = tuple(_SYMBOLS.split())
"""Chemical symbols; element Z is ``ELEMENTS[Z - 1]``."""


@dataclass(frozen=True, eq=False)
class Crystal:
    """A periodic crystal of N atoms.

    Left-handed, skewed, thin, unwrapped and one-atom cells are all valid. The arrays are private, read-only copies.

    Raises:
        UserError: a wrong shape, a number that is not finite, a cell of (almost) no volume, an atomic number outside
            1..118, or two atoms (periodic images included) within `MIN_DISTANCE`; the message names the crystal.
    """

    lattice: NDArray[np.float64]
    """(3, 3), rows a, b, c in Å."""
    frac_coords: NDArray[np.float64]
    """(N, 3), in units of the lattice vectors; not necessarily wrapped into [0, 1)."""
    atomic_numbers: NDArray[np.int64]
    """(N,), 1 to 118."""
    id: str = ""
    """Identifier in its data set, named by every error."""
    mixture: Mixture | None = None
    """Occupancies of the disordered sites, whose `atomic_numbers` name the main element; None: an ordered crystal."""

    def __post_init__(self) -> None:
        lattice = self._floats("lattice", self.lattice)
        frac_coords = self._floats("frac_coords", self.frac_coords)
        numbers = self._integers(self.atomic_numbers)
        self._require(lattice.shape == (3, 3), f"lattice has shape {lattice.shape}, expected (3, 3): rows a, b, c in Å")
        self._require(
            numbers.ndim == 1 and numbers.size > 0, f"atomic_numbers has shape {numbers.shape}, expected (N,)"
        )
        expected = (numbers.size, 3)
        self._require(
            frac_coords.shape == expected,
            f"frac_coords has shape {frac_coords.shape}, expected {expected} for {numbers.size} atomic numbers",
        )
        self._require(bool(np.isfinite(lattice).all()), "lattice has numbers that are not finite")
        self._require(bool(np.isfinite(frac_coords).all()), "frac_coords has numbers that are not finite")
        self._require(
            bool((np.abs(lattice) <= MAX_LENGTH).all() and (np.abs(frac_coords) <= MAX_FRAC_COORD).all()),
            f"lattice or frac_coords have huge numbers, expected at most {MAX_LENGTH:g} Å and {MAX_FRAC_COORD:g}",
        )
        outside = numbers[(numbers < 1) | (numbers > len(ELEMENTS))]
        if outside.size:  # not always, as an array takes long to become text
            self._require(False, f"atomic number {outside[:1]} is not an element, expected 1 to {len(ELEMENTS)}")
        for name, array in (("lattice", lattice), ("frac_coords", frac_coords), ("atomic_numbers", numbers)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.mixture is not None:
            problem = self.mixture.problem(numbers.size, len(ELEMENTS))
            self._require(not problem, problem)
        volume = self.volume
        self._require(
            volume >= MIN_VOLUME,
            f"the cell's volume is {volume:.3g} Å³, expected at least {MIN_VOLUME:g} Å³: "
            "check the lattice vectors (rows, in Å)",
        )
        self._check_distances()

    @property
    def num_atoms(self) -> int:
        """Number of atoms in the cell, N."""
        return int(self.atomic_numbers.size)

    @property
    def volume(self) -> float:
        """Volume of the cell in Å³, positive for either handedness."""
        return abs(float(np.linalg.det(self.lattice)))

    @property
    def cart_coords(self) -> NDArray[np.float64]:
        """(N, 3) Cartesian coordinates in Å, ``frac_coords @ lattice``."""
        return self.frac_coords @ self.lattice

    @property
    def elements(self) -> set[int]:
        """Atomic numbers in it, those of disordered sites included."""
        elements = set(self.atomic_numbers.tolist())
        return elements if self.mixture is None else elements | set(self.mixture.elements.tolist())

    @property
    def amounts(self) -> NDArray[np.float64]:
        """(118,) atoms of each element in the cell, occupancies counted."""
        amounts = np.bincount(self.atomic_numbers - 1, minlength=len(ELEMENTS)).astype(np.float64)
        if (mixture := self.mixture) is not None:
            mixed = self.atomic_numbers[np.unique(mixture.sites)] - 1
            amounts -= np.bincount(mixed, minlength=len(ELEMENTS))
            amounts += np.bincount(mixture.elements - 1, mixture.weights, minlength=len(ELEMENTS))
        return amounts

    @classmethod
    def from_structure(cls, structure: "Structure", id: str = "") -> "Crystal":
        """Take over a pymatgen structure.

        Args:
            structure: periodic along all three lattice vectors; oxidation states are dropped, a site of several
                elements or with vacancies becomes part of the `mixture`.
            id: identifier for messages and results.

        Raises:
            UserError: a site holds no element or is occupied more than once, the structure is not periodic in three
                directions, or the crystal is not valid.
        """
        from pymatgen.core.periodic_table import DummySpecies, Element, Species

        label = _label(id)
        if not all(structure.lattice.pbc):
            raise UserError(f"{label}: the structure is not periodic along all three lattice vectors")
        entries: list[tuple[int, int, float]] = []
        for index, site in enumerate(structure):
            for specie, occupancy in site.species.items():
                if isinstance(specie, DummySpecies) or not isinstance(specie, Element | Species):
                    raise UserError(f"{label}: site {index} holds {site.species_string}, which is not an element")
                entries.append((index, int(specie.Z), float(occupancy)))
        try:
            numbers, mixture = occupied_sites(*zip(*entries, strict=True))
        except ValueError as error:
            raise UserError(f"{label}: {error}") from error
        return cls(structure.lattice.matrix, structure.frac_coords, numbers, id, mixture)

    def with_id(self, id: str) -> "Crystal":
        """Return the same crystal under another identifier; it is not checked again."""
        named = copy.copy(self)
        object.__setattr__(named, "id", id)
        return named

    def to_structure(self) -> "Structure":
        """Return the same cell as a pymatgen structure, coordinates not wrapped, occupancies included."""
        from pymatgen.core.structure import Structure

        symbols: list[Any] = [ELEMENTS[number - 1] for number in self.atomic_numbers]
        if self.mixture is not None:
            for site in np.unique(self.mixture.sites):
                symbols[site] = {}
            for site, number, weight in zip(*vars(self.mixture).values(), strict=True):
                symbols[site][ELEMENTS[number - 1]] = float(weight)
        return Structure(self.lattice.copy(), symbols, self.frac_coords.copy(), to_unit_cell=False)

    def _floats(self, name: str, values: ArrayLike) -> NDArray[np.float64]:
        try:
            return np.array(values, dtype=np.float64, order="C")
        except (TypeError, ValueError) as error:
            raise UserError(f"{_label(self.id)}: {name} is not an array of numbers ({error})") from error

    def _integers(self, values: ArrayLike) -> NDArray[np.int64]:
        array: NDArray[Any] = np.array(values)
        self._require(
            np.issubdtype(array.dtype, np.integer), f"atomic_numbers are of type {array.dtype}, expected integers"
        )
        return array.astype(np.int64)

    def _check_distances(self) -> None:
        pair = close_pair(self.lattice, self.frac_coords, MIN_DISTANCE)
        if pair is None:
            return
        i, j, distance = pair
        first, second = (f"{ELEMENTS[self.atomic_numbers[k] - 1]} (number {k})" for k in (i, j))
        what = f"atom {first} is on top of its own periodic image" if i == j else f"atoms {first} and {second} overlap"
        self._require(False, f"{what}: {distance:.3g} Å apart, expected at least {MIN_DISTANCE} Å")

    def _require(self, ok: bool, message: str) -> None:
        if not ok:
            raise UserError(f"{_label(self.id)}: {message}")


def _label(id: str) -> str:
    return f"crystal {id!r}" if id else "crystal without id"


def close_pair(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], limit: float
) -> tuple[int, int, float] | None:
    """Return (i, j, distance) of the nearest two sites within `limit` (Å), periodic images included, or None.

    Of more than `CROWD` sites that crowd upon one another it returns two near ones; the pairs are too many to list.
    """
    volume = abs(float(np.linalg.det(lattice)))
    spacing = max(limit, (volume / len(frac_coords)) ** (1 / 3))
    inverse = np.linalg.inv(lattice)
    lowest = 1 / float(np.sqrt((inverse * inverse).sum(axis=0).max()))  # distance of the nearest two opposite faces
    if len(frac_coords) <= FEW and lowest > 2 * limit:
        return _nearest_pair(lattice, frac_coords, limit)
    cart_coords = (frac_coords - np.floor(frac_coords)) @ lattice
    if spacing / lowest > 20:
        lattice = _reduced(lattice)
        shortest = float(np.linalg.norm(lattice, axis=1).min())
        if shortest < limit:
            return 0, 0, shortest
    if len(cart_coords) > CROWD and (crowded := _crowded_pair(cart_coords, limit)) is not None:
        return crowded
    import vesin

    finder = vesin.NeighborList(cutoff=limit, full_list=False, n_threads=1)
    i, j, distances = finder.compute(points=cart_coords, box=lattice, periodic=True, quantities="ijd")
    if not len(distances):
        return None
    nearest = np.argmin(distances)
    return int(min(i[nearest], j[nearest])), int(max(i[nearest], j[nearest])), float(distances[nearest])


def _nearest_pair(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], limit: float
) -> tuple[int, int, float] | None:
    """Return the nearest two sites within `limit` by trying all pairs.

    In a cell whose opposite faces are more than twice the limit apart, only that image of a pair can be within it
    whose fractional coordinates differ by at most one half, and no site is near an image of its own.
    """
    between = frac_coords[:, None] - frac_coords
    vector = (between - np.rint(between)) @ lattice
    squared = np.einsum("ijx,ijx->ij", vector, vector)
    np.fill_diagonal(squared, np.inf)
    i, j = divmod(int(squared.argmin()), len(frac_coords))
    distance = float(np.sqrt(squared[i, j]))
    return (i, j, distance) if distance < limit else None


def _crowded_pair(cart_coords: NDArray[np.float64], limit: float) -> tuple[int, int, float] | None:
    """Return two of the sites in a cube of half the limit's side that holds more than two, or None."""
    cube = np.unique(np.floor(cart_coords / (limit / 2)).astype(np.int64), axis=0, return_inverse=True)[1].ravel()
    sizes = np.bincount(cube)
    if sizes.max() <= 2:
        return None
    first, second = np.flatnonzero(cube == sizes.argmax())[:2]
    return int(first), int(second), float(np.linalg.norm(cart_coords[first] - cart_coords[second]))


def _reduced(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return another basis of the same lattice with short vectors; only for extremely skewed cells (slow import)."""
    from crystalframer.geometry.lattice_frame import reducing_coefficients

    return np.asarray(reducing_coefficients(lattice) @ lattice)
