"""Records of a published data set as columns of numbers: read and checked many at a time.

The quick way accepts exactly what `Crystal` accepts: whatever it is not sure of goes through `record_to_crystal`,
record by record, which also finds the words for what is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.structures.records import Chunk, decode_records, record_number, record_to_crystal
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, MIN_DISTANCE, MIN_VOLUME, Crystal

MANY_ATOMS = 200
"""Crystals of more atoms are checked one by one, by a neighbour search instead of pair by pair."""
FAR_AWAY = 1e4
"""Fractional coordinates beyond this are checked one by one: wrapping them costs digits."""
_PAIRS = 100_000
_NUMBER_OF = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)}


@dataclass(frozen=True)
class Layout:
    """Where a record keeps what."""

    id_fields: tuple[str, ...]
    """Fields that may hold the id; the first one present counts."""
    fields: Mapping[str, str]
    """Field that holds the target, by task."""
    prefix: str = ""
    """Put before every id."""


@dataclass(frozen=True, eq=False)
class Columns:
    """m records, k of them valid crystals with A atoms in all."""

    ids: list[str]
    """m"""
    kept: NDArray[np.bool_]
    """(m,), whether the record holds a valid crystal"""
    targets: Mapping[str, NDArray[np.float64]]
    """(m,) by task, NaN where absent"""
    sizes: NDArray[np.int64]
    """(k,) atoms"""
    lattice: NDArray[np.float64]
    """(k, 3, 3), rows in Å"""
    frac_coords: NDArray[np.float64]
    """(A, 3)"""
    atomic_numbers: NDArray[np.uint8]
    """(A,)"""
    reasons: Mapping[int, str]
    """Why a record was left out, by its position among the m"""


def chunk_to_columns(chunk: Chunk, layout: Layout) -> Columns:
    """Decode and check a chunk of a file.

    Raises:
        UserError: the text is malformed, or a record has no id.
    """
    return records_to_columns(decode_records(chunk), layout, chunk.source, chunk.first)


def records_to_columns(records: Sequence[Mapping[str, Any]], layout: Layout, source: str, first: int = 0) -> Columns:
    """Check records and turn them into columns.

    Args:
        records: as decoded.
        layout: where they keep id and targets.
        source: the file, for messages.
        first: number of the first record in the file, for messages.

    Raises:
        UserError: a record has no id.
    """
    ids = [layout.prefix + _id_of(record, layout, source, first + row) for row, record in enumerate(records)]
    targets = {
        task: np.array([record_number(record, field) for record in records], dtype=np.float64)
        for task, field in layout.fields.items()
    }
    rows, lattice, frac_coords, numbers, sizes = _plain(records)
    sure = _certainly_valid(lattice, frac_coords, sizes)
    crystals: dict[int, Crystal] = {}
    reasons: dict[int, str] = {}
    for row in sorted(set(range(len(records))) - set(rows[sure].tolist())):
        try:
            crystals[row] = record_to_crystal(records[row], ids[row])
        except UserError as error:
            reasons[row] = str(error)
    kept = np.ones(len(records), dtype=bool)
    kept[list(reasons)] = False
    starts = np.cumsum(sizes) - sizes
    atoms = _ranges(starts[sure], sizes[sure])
    parts = (rows[sure], sizes[sure], lattice[sure], frac_coords[atoms], numbers[atoms])
    return Columns(ids, kept, targets, *_in_order(*parts, crystals), reasons)


def _id_of(record: Mapping[str, Any], layout: Layout, source: str, number: int) -> str:
    for key in layout.id_fields:
        value = record.get(key)
        if isinstance(value, str | int) and (id := str(value).strip()):
            return id
    raise UserError(
        f"source {source}: record {number} has no id in field {layout.id_fields[0]!r} "
        f"(it has: {', '.join(sorted(record)[:8])}): is this the right file?"
    )


_Plain = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64]]


def _plain(records: Sequence[Mapping[str, Any]]) -> _Plain:
    """Return positions, lattices, coordinates, atomic numbers and sizes of the records of the usual kind."""
    rows: list[int] = []
    lattices: list[Any] = []
    coords: list[Any] = []
    numbers: list[int] = []
    sizes: list[int] = []
    for row, record in enumerate(records):
        atoms = record.get("atoms")
        if type(atoms) is not dict or atoms.get("cartesian", False):
            continue
        found = _atomic_numbers(atoms.get("elements"))
        own = atoms.get("coords")
        if not found or type(own) is not list or len(own) != len(found):
            continue
        rows.append(row)
        lattices.append(atoms.get("lattice_mat"))
        coords += own
        numbers += found
        sizes.append(len(found))
    try:
        lattice = np.array(lattices, dtype=np.float64).reshape(len(rows), 3, 3)
        frac_coords = np.array(coords, dtype=np.float64).reshape(len(numbers), 3)
    except (TypeError, ValueError):  # one of them is no array of numbers: which one shows record by record
        return _plain([])
    return np.array(rows, dtype=np.int64), lattice, frac_coords, np.array(numbers, np.uint8), np.array(sizes, np.int64)


def _atomic_numbers(elements: Any) -> list[int]:
    """Return the atomic numbers, or nothing where one is not known."""
    if type(elements) is not list:
        return []
    try:
        return [_NUMBER_OF[symbol] for symbol in elements]
    except KeyError:
        pass
    except TypeError:
        return []
    stripped = [_NUMBER_OF.get(str(symbol).strip(), 0) for symbol in elements]
    return stripped if all(stripped) else []


def _certainly_valid(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the positions of crystals that `Crystal` is certain to accept.

    In a cell whose opposite faces are more than twice `MIN_DISTANCE` apart, atoms within that distance differ by less
    than half a lattice vector along each axis, so that the nearest image is found by rounding.
    """
    if not sizes.size:
        return np.zeros(0, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    # written so that what is not a number fails the comparison
    near = np.logical_and.reduceat((np.abs(frac_coords) < FAR_AWAY).all(axis=1), starts)
    near &= (np.abs(lattice) < FAR_AWAY).all(axis=(1, 2))
    valid = near & (sizes <= MANY_ATOMS)
    cells = np.where(valid[:, None, None], lattice, np.eye(3))
    volume = np.abs(np.linalg.det(cells))
    faces = np.cross(np.roll(cells, -1, axis=1), np.roll(cells, -2, axis=1))
    areas = np.linalg.norm(faces, axis=2)
    valid &= (volume > 2 * MIN_VOLUME) & (volume[:, None] > 2.5 * MIN_DISTANCE * areas).all(axis=1)
    for size in np.unique(sizes[valid]):
        same = np.flatnonzero(valid & (sizes == size))
        step = max(1, 2 * _PAIRS // int(size * size))
        for begin in range(0, same.size, step):
            some = same[begin : begin + step]
            own = frac_coords[starts[some][:, None] + np.arange(size)]
            valid[some] = _apart(own, lattice[some])
    return np.flatnonzero(valid)


def _apart(frac_coords: NDArray[np.float64], lattice: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of m crystals of n atoms, (m, n, 3), have no two atoms that may be too near."""
    first, second = np.triu_indices(frac_coords.shape[1], k=1)
    difference = frac_coords[:, first] - frac_coords[:, second]
    difference -= np.rint(difference)
    vector = difference @ lattice
    squared = np.einsum("mpi,mpi->mp", vector, vector)
    return (squared > (MIN_DISTANCE * (1 + 1e-6)) ** 2).all(axis=1)


def _in_order(
    rows: NDArray[np.int64],
    sizes: NDArray[np.int64],
    lattice: NDArray[np.float64],
    frac_coords: NDArray[np.float64],
    numbers: NDArray[np.uint8],
    crystals: Mapping[int, Crystal],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]]:
    """Put crystals that were checked one by one among the others, by their rows."""
    if not crystals:
        return sizes, lattice, frac_coords, numbers
    single = list(crystals.values())
    rows = np.concatenate([rows, np.array(list(crystals), dtype=np.int64)])
    sizes = np.concatenate([sizes, [crystal.num_atoms for crystal in single]])
    lattice = np.concatenate([lattice, [crystal.lattice for crystal in single]])
    frac_coords = np.concatenate([frac_coords, *(crystal.frac_coords for crystal in single)])
    numbers = np.concatenate([numbers, *(crystal.atomic_numbers.astype(np.uint8) for crystal in single)])
    order = np.argsort(rows)
    atoms = _ranges((np.cumsum(sizes) - sizes)[order], sizes[order])
    return sizes[order], lattice[order], frac_coords[atoms], numbers[atoms]


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the concatenation of ``starts[i], starts[i] + 1, …`` with ``sizes[i]`` entries each."""
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
