"""A trained model in Python: structures of any kind in, a table out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crystalframer.errors import UserError
from crystalframer.prediction.calibration import COVERAGE
from crystalframer.prediction.intervals import check_coverage
from crystalframer.prediction.loading import predictor_of, read_model
from crystalframer.prediction.packed import PackedModel
from crystalframer.prediction.predictor import Embedded
from crystalframer.prediction.structures import StructureLike, named_structures

Structures = StructureLike | Iterable[StructureLike]


class Model:
    """A trained model, or an ensemble of them, ready to predict; `crystalframer.load` makes one."""

    def __init__(self, models: Sequence[PackedModel], files: Sequence[Path]) -> None:
        """Take over the models that these files hold."""
        self.predictor = predictor_of(models)
        self.files = tuple(files)
        self._packed = models[0] if len(models) == 1 else PackedModel(())

    @property
    def about(self) -> dict[str, Any]:
        """Property, data, licence, sizes and errors of a packed model; empty for any other."""
        return dict(self._packed.about)

    @property
    def card(self) -> str:
        """The model card of a packed model, Markdown; empty for any other."""
        return self._packed.card

    @property
    def curves(self) -> pd.DataFrame:
        """The epochs of a packed model's trainings, a row each with the member's number."""
        curves = enumerate(self._packed.curves)
        return pd.DataFrame([{"member": number, **epoch} for number, curve in curves for epoch in curve])

    def predict(self, structures: Structures, *, coverage: float = COVERAGE, processes: int = 1) -> pd.DataFrame:
        """Predict structures.

        Args:
            structures: one or many of: pymatgen ``Structure``, ASE ``Atoms``, `Crystal`, a path to a file, the text of
                a CIF, a POSCAR or pymatgen's JSON; a pandas column of these keeps its index.
            coverage: share of true values that the intervals shall hold.
            processes: processes that read files.

        Returns:
            A row for each structure, in order (and for each property, where the model has several): id, property,
            prediction, unit, lower, upper (both absent where the model has no intervals), warnings, error. What cannot
            be read or predicted has its reason in `error`.

        Raises:
            UserError: something is no structure, or the coverage no share.
        """
        check_coverage(coverage)
        self.predictor.coverage = coverage
        found = self.predictor.predict_named(named_structures(structures, processes))
        parts = []
        for column, (name, unit) in enumerate(zip(found.names, found.units, strict=True)):
            part: dict[str, Any] = {"id": found.ids, "property": name, "prediction": found.values[:, column]}
            part["unit"] = unit
            if found.lower is not None and found.upper is not None:
                part |= {"lower": found.lower[:, column], "upper": found.upper[:, column]}
            parts.append(pd.DataFrame({**part, "warnings": found.warnings, "error": found.errors}))
        table = pd.concat(parts).sort_index(kind="stable") if len(parts) > 1 else parts[0]
        if isinstance(structures, pd.Series) and len(structures) == len(found.ids):
            return table.set_index(structures.index.repeat(len(parts)))
        return table.reset_index(drop=True)

    def embed(self, structures: Structures, *, per_atom: bool = False) -> pd.DataFrame:
        """Return what the model makes of structures before its head: a row of `width` numbers for each.

        An ensemble's first member embeds.

        Args:
            structures: as for `predict`.
            per_atom: a row for each atom instead; a structure's row is the mean of those of its atoms.

        Returns:
            A table whose index is the structures' ids, or ids and atoms.

        Raises:
            UserError: a structure cannot be read or embedded; the message names it.
        """
        found = [self._checked(one) for one in self.predictor.embed_named(named_structures(structures))]
        if not per_atom:
            vectors: NDArray[np.float64] = np.stack([one.vector for one in found])
            return pd.DataFrame(vectors, index=pd.Index([one.id for one in found], name="id"))
        labels = [(one.id, atom) for one in found for atom in range(len(one.atoms))]
        index = pd.MultiIndex.from_tuples(labels, names=["id", "atom"])
        return pd.DataFrame(np.concatenate([one.atoms for one in found]), index=index)

    @staticmethod
    def _checked(one: Embedded) -> Embedded:
        if one.error:
            raise UserError(f"structure {one.id!r} cannot be embedded: {one.error}; leave it out")
        return one

    def __repr__(self) -> str:
        """Say what it predicts."""
        targets = ", ".join(
            f"{name} [{unit}]" for name, unit in zip(self.predictor.names, self.predictor.units, strict=True)
        )
        count = len(self.predictor.members)
        return f"Model({targets}; {count} member{'s'[: count > 1]}; {', '.join(path.name for path in self.files)})"

    def _repr_markdown_(self) -> str:
        """Return the card, for notebooks."""
        return self.card or f"`{self!r}`"


def model_of(files: Sequence[Path], device: str = "cpu") -> Model:
    """Return the model of files: one, or several as an ensemble.

    Raises:
        UserError: one cannot be read.
    """
    return Model([read_model(file, device=device) for file in files], files)
