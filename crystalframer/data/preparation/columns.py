"""Records of a published data set as columns of numbers, each checked by `Crystal`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.preparation.cell_values import number_of
from crystalframer.data.structures.records import Chunk, decode_records, record_to_crystal
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal


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
    crystals: list[Crystal] = []
    reasons: dict[int, str] = {}
    for row, (id, record) in enumerate(zip(ids, records, strict=True)):
        try:
            crystals.append(record_to_crystal(record, id))
        except UserError as error:
            reasons[row] = str(error)
    kept = np.ones(len(records), dtype=bool)
    kept[list(reasons)] = False
    return Columns(
        ids,
        kept,
        targets,
        sizes=np.array([crystal.num_atoms for crystal in crystals], dtype=np.int64),
        lattice=np.array([crystal.lattice for crystal in crystals], dtype=np.float64).reshape(-1, 3, 3),
        frac_coords=np.concatenate([np.zeros((0, 3)), *(crystal.frac_coords for crystal in crystals)]),
        atomic_numbers=np.concatenate([np.zeros(0, np.uint8), *(c.atomic_numbers.astype(np.uint8) for c in crystals)]),
        reasons=reasons,
    )


def record_number(record: Mapping[str, Any], field: str) -> float:
    """Return a record's number, NaN where it is absent, ``"na"``, null, true or false, or not finite."""
    value = record.get(field)
    return math.nan if isinstance(value, bool) else number_of(value)


def _id_of(record: Mapping[str, Any], layout: Layout, source: str, number: int) -> str:
    for key in layout.id_fields:
        value = record.get(key)
        if isinstance(value, str | int) and (id := str(value).strip()):
            return id
    raise UserError(
        f"source {source}: record {number} has no id in field {layout.id_fields[0]!r} "
        f"(it has: {', '.join(sorted(record)[:8])}): is this the right file?"
    )
