"""What a prediction returns, and the tables it is written to."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from crystalframer.atomic_files import replacing, writing
from crystalframer.errors import UserError
from crystalframer.escaping import for_csv, printable

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet", ".json")
"""What a table's file may be called."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Values of T properties for S structures, in the order in which they were given."""

    ids: tuple[str, ...]
    """Name of each structure."""
    sources: tuple[str, ...]
    """File it was read from; empty for a structure given in memory."""
    names: tuple[str, ...]
    """The T properties."""
    units: tuple[str, ...]
    """Their units."""
    values: NDArray[np.float64]
    """(S, T) predictions; NaN where there is an error."""
    spread: NDArray[np.float64] | None
    """(S, T) standard deviation over the models of an ensemble; None for a single model."""
    errors: tuple[str, ...]
    """Why a structure has no prediction; empty where it has one."""
    warnings: tuple[str, ...] = ()
    """What is doubtful about how each structure was read, empty where nothing is; a column where there is any."""
    half_widths: NDArray[np.float64] | None = None
    """(S, T) half the width of the interval around each prediction; None where the model has no intervals."""
    coverage: float | None = None
    """Share of true values that these intervals hold, on crystals drawn as the validation crystals were."""
    embeddings: NDArray[np.float64] | None = None
    """(S, width) embeddings by the first model, where they were asked for."""

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Return the structures of at least one part by the same models, one part after the other."""
        texts: dict[str, Any] = {
            name: tuple(text for part in parts for text in getattr(part, name))
            for name in ("ids", "sources", "errors", "warnings")
        }
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("values", "spread", "half_widths", "embeddings")
            if getattr(parts[0], name) is not None
        }
        return replace(parts[0], **texts, **arrays)

    @property
    def num_predicted(self) -> int:
        """Number of structures that have a prediction."""
        return sum(not error for error in self.errors)

    @property
    def lower(self) -> NDArray[np.float64] | None:
        """(S, T) lower ends of the intervals, if any."""
        return None if self.half_widths is None else self.values - self.half_widths

    @property
    def upper(self) -> NDArray[np.float64] | None:
        """(S, T) upper ends of the intervals, if any."""
        return None if self.half_widths is None else self.values + self.half_widths

    def to_dataframe(self) -> "pd.DataFrame":
        """Return a table with the columns id, source, ``<name> [<unit>]``, its spread and interval, warnings, error."""
        import pandas as pd

        columns: dict[str, Any] = {"id": list(self.ids), "source": list(self.sources)}
        columns |= self._numbers()
        columns |= {name: list(texts) for name, texts in self._texts().items()}
        return pd.DataFrame(columns)

    def write(self, path: Path) -> None:
        """Write the table as CSV, Parquet or JSON, by the file's suffix.

        Text in a CSV file that a spreadsheet would take for a formula gets an apostrophe in front.

        Raises:
            UserError: another suffix, or the file cannot be written.
        """
        require_suffix(path)
        with writing(path, "--output"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                match path.suffix.lower():
                    case ".csv":
                        with temporary.open("w", encoding="utf-8", newline="") as file:
                            csv.writer(file).writerows(self._csv_rows())
                    case ".parquet":
                        self.to_dataframe().to_parquet(temporary, index=False)
                    case _:
                        content = json.dumps(list(self._records()), indent=1, ensure_ascii=False)
                        temporary.write_text(content, encoding="utf-8")

    def write_csv(self, file: TextIO) -> None:
        """Write the table as CSV to a file that is open."""
        csv.writer(file, lineterminator="\n").writerows(self._csv_rows())

    def _texts(self) -> dict[str, tuple[str, ...]]:
        return ({"warnings": self.warnings} if any(self.warnings) else {}) | {"error": self.errors}

    def _numbers(self) -> dict[str, NDArray[np.float64]]:
        columns = {}
        for index, (name, unit) in enumerate(zip(self.names, self.units, strict=True)):
            columns[f"{name} [{unit}]"] = self.values[:, index]
            if self.spread is not None:
                columns[f"{name}_std [{unit}]"] = self.spread[:, index]
            if self.lower is not None and self.upper is not None:
                columns[f"{name}_lower [{unit}]"] = self.lower[:, index]
                columns[f"{name}_upper [{unit}]"] = self.upper[:, index]
        return columns

    def _csv_rows(self) -> Iterator[list[str]]:
        numbers = self._numbers()
        texts = self._texts()
        yield ["id", "source", *numbers, *texts]
        for row, (label, source) in enumerate(zip(self.ids, self.sources, strict=True)):
            values = [_text(column[row]) for column in numbers.values()]
            yield [for_csv(label), for_csv(source), *values, *(for_csv(column[row]) for column in texts.values())]

    def _records(self) -> Iterator[dict[str, Any]]:
        numbers = self._numbers()
        for row, (label, source) in enumerate(zip(self.ids, self.sources, strict=True)):
            values = {name: float(column[row]) for name, column in numbers.items()}
            known = {name: value if np.isfinite(value) else None for name, value in values.items()}
            texts = {name: printable(column[row]) or None for name, column in self._texts().items()}
            yield {"id": printable(label), "source": printable(source), **known, **texts}


def require_suffix(path: Path) -> None:
    """Raise a `UserError` unless a table can be written to a file of this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output {path}: got the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")


def _text(value: float) -> str:
    """Return a float32-exact number, nothing for NaN."""
    return f"{value:.9g}" if np.isfinite(value) else ""
