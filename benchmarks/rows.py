"""The rows of a benchmark's CSV, one number each, with all it takes to know what was measured."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TextIO

from benchmarks.timing import Spread

MACHINE_COLUMNS = (
    "date",
    "git_commit",
    "machine",
    "cores",
    "device",
    "python",
    "torch",
    "numba",
    "triton",
    "crystalframer",
)


@dataclass(frozen=True)
class Case:
    """What was computed: the columns that identify a measurement."""

    kernel: str
    """empty: the same for every kernel"""
    frame: str
    preset: str
    cutoff_angstrom: float
    crystals: str
    """`random`, or the data set"""
    size: str
    """atoms per random crystal, or `real`"""
    atoms_per_crystal: float
    neighbours_per_atom: float
    crystals_per_batch: int
    threads: int


@dataclass(frozen=True)
class Row:
    """One number, or one median with its range."""

    case: Case
    quantity: str
    unit: str
    spread: Spread
    ratio_to_reference: float | None = None
    load: str = ""
    note: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)

    def flat(self) -> dict[str, object]:
        """Return the row's cells by column."""
        spread = self.spread
        return {
            **asdict(self.case),
            "quantity": self.quantity,
            "unit": self.unit,
            "median": _number(spread.median),
            "min": _number(spread.low),
            "max": _number(spread.high),
            "cpu_median": _number(spread.cpu),
            "ratio_to_reference": _number(self.ratio_to_reference),
            "load": self.load,
            "note": self.note,
            **{name: self.provenance.get(name, "") for name in MACHINE_COLUMNS},
        }


COLUMNS: tuple[str, ...] = (
    *(item.name for item in fields(Case)),
    *("quantity", "unit", "median", "min", "max", "cpu_median", "ratio_to_reference", "load", "note"),
    *MACHINE_COLUMNS,
)


class CsvFile:
    """Writes rows as they come, so that a benchmark that is stopped leaves what it has."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        self._writer.writeheader()
        stream.flush()

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self._writer.writerows(row.flat() for row in rows)
        self._stream.flush()


def _number(value: float | None) -> str:
    """Return four significant digits; nothing for a number that was not measured."""
    return "" if value is None or value != value else f"{value:.4g}"
