"""A predictor: one or several trained models with the same targets, applied to structures of any origin."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.data.batch import collate
from crystalframer.data.batching import packed_batches
from crystalframer.data.structures.reading import Reading
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.prediction.calibration import COVERAGE, Calibration
from crystalframer.prediction.predictions import Predictions
from crystalframer.prediction.structures import StructureLike, named_structures
from crystalframer.prediction.watching import watched
from crystalframer.training.inference import EVALUATION_ATOMS
from crystalframer.training.out_of_memory import FAILED_ALLOCATION, is_out_of_memory, release
from crystalframer.training.trained_model import TrainedModel

UNLIKE = "unlike the training crystals: "
"""What begins a warning of a crystal that the model cannot be trusted with; the ways follow, with semicolons."""
CHUNK_ATOMS = 4 * EVALUATION_ATOMS
"""Atoms of the structures that are held at once; within them, batches are packed by size."""


MAX_NEIGHBOURS = 10**7
"""Neighbour entries of one structure; five times what 10,000 atoms of a metal have within 8 Å."""
USUAL_NEIGHBOURS = 150
"""Neighbours per atom of usual crystals; denser ones count as more atoms when batches are packed."""
NO_MEMORY = "there is not enough memory to predict it"


@dataclass(frozen=True, eq=False)
class _Outcome:
    """The outputs for some structures: a row each, NaN where there is an error."""

    values: NDArray[np.float64]
    """(M, S, T) in the targets' units, for M models."""
    embeddings: NDArray[np.float64]
    """(S, width) of the first model."""
    atoms: list[NDArray[np.float32]]
    """For each structure (N, width): the states of its atoms that the embedding is the mean of."""
    errors: list[str]


@dataclass(frozen=True, eq=False)
class Embedded:
    """A structure as the first model of a predictor sees it."""

    id: str
    vector: NDArray[np.float64]
    """(width,) the mean over the atoms of what the last block makes of them; NaN where there is an error."""
    atoms: NDArray[np.float32]
    """(N, width) what the last block makes of each atom."""
    error: str


class Predictor:
    """Predicts the properties of crystals; several models make an ensemble whose mean and spread are returned.

    Predictions do not depend on what else is predicted beside a structure, but for float32's rounding.
    """

    def __init__(
        self,
        members: Sequence[TrainedModel],
        *,
        calibration: Calibration | None = None,
        coverage: float = COVERAGE,
    ) -> None:
        """Take over trained models.

        Args:
            members: at least one; all with the same targets and units.
            calibration: of these models, for intervals and for warnings of crystals unlike the training crystals.
            coverage: share of true values that the intervals shall hold.

        Raises:
            UserError: no model, or models of different targets.
        """
        if not members:
            raise UserError("got no model to predict with, expected at least one")
        self.members = tuple(members)
        self.calibration = calibration
        self.coverage = coverage
        self.names = tuple(target.name for target in members[0].targets)
        self.units = tuple(target.unit for target in members[0].targets)
        for member in members[1:]:
            ours, theirs = _targets_of(members[0]), _targets_of(member)
            if ours != theirs:
                raise UserError(
                    f"the models of an ensemble must predict the same: one predicts {ours}, another {theirs}"
                )

    @cached_property
    def trained_elements(self) -> frozenset[int] | None:
        """Atomic numbers that every model met in training; None where that is not known of one of them."""
        known = [member.elements for member in self.members]
        if any(elements is None for elements in known):
            return None
        return frozenset.intersection(*(frozenset(elements) for elements in known if elements is not None))

    @cached_property
    def num_elements(self) -> int:
        """Largest atomic number that every model knows."""
        return min(member.trial.model.num_elements for member in self.members)

    def predict(self, structures: "StructureLike | Iterable[StructureLike]", *, processes: int = 1) -> Predictions:
        """Predict structures.

        Args:
            structures: one or many of: pymatgen ``Structure``, ASE ``Atoms``, `Crystal`, or a path to a file of
                structures (a file of several frames gives several rows).
            processes: processes that read files.

        Returns:
            A row for each structure, in order. A structure that cannot be read or predicted has its reason in
            `errors`; nothing is raised for it.
        """
        return self.predict_named(named_structures(structures, processes))

    def predict_named(self, structures: Iterable[Reading], *, embeddings: bool = False) -> Predictions:
        """Predict structures that were read already, or whose reading failed; held in memory chunk by chunk.

        Args:
            structures: what was read.
            embeddings: keep the embeddings by the first model, too.
        """
        parts = []
        for chunk in _chunks(structures, CHUNK_ATOMS):
            outcome = self._predict_chunk(chunk)
            spread = outcome.values.std(axis=0, ddof=1) if len(self.members) > 1 else None
            half_widths, strange = self._judge(chunk, outcome, spread)
            doubts = ([*entry.warnings, *filter(None, [words])] for entry, words in zip(chunk, strange, strict=True))
            parts.append(
                Predictions(
                    ids=tuple(entry.id for entry in chunk),
                    sources=tuple(entry.source for entry in chunk),
                    names=self.names,
                    units=self.units,
                    values=outcome.values.mean(axis=0),
                    spread=spread,
                    errors=tuple(outcome.errors),
                    warnings=tuple(map("; ".join, doubts)),
                    half_widths=half_widths,
                    coverage=None if self.calibration is None else self.coverage,
                    embeddings=outcome.embeddings if embeddings else None,
                )
            )
        return Predictions.joined(parts)

    def embed_named(self, structures: Iterable[Reading]) -> Iterator[Embedded]:
        """Yield the embedding of each structure by the first model, in order; see `predict_named`."""
        for chunk in _chunks(structures, CHUNK_ATOMS):
            outcome = self._predict_chunk(chunk)
            for entry, vector, atoms, error in zip(
                chunk, outcome.embeddings, outcome.atoms, outcome.errors, strict=True
            ):
                yield Embedded(entry.id, vector, atoms, error)

    def _judge(
        self, chunk: Sequence[Reading], outcome: _Outcome, spread: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64] | None, list[str]]:
        """Return half the width of the intervals (S, T) and in which way each structure is strange, if at all."""
        words = [""] * len(chunk)
        if self.calibration is None:
            return None, words
        rows = [row for row, error in enumerate(outcome.errors) if not error]
        half_widths = np.full(outcome.values.shape[1:], np.nan)
        if rows:
            crystals = [crystal for row in rows if (crystal := chunk[row].crystal) is not None]
            embeddings, own = outcome.embeddings[rows], None if spread is None else spread[rows]
            half_widths[rows], found = self.calibration.judge(crystals, embeddings, own, self.coverage)
            for row, strange in zip(rows, found, strict=True):
                words[row] = f"{UNLIKE}{'; '.join(strange)}" if strange else ""
        return half_widths, words

    def _predict_chunk(self, chunk: Sequence[Reading]) -> _Outcome:
        errors = [entry.reason or self._problem(entry.crystal) for entry in chunk]
        good = np.array([row for row, error in enumerate(errors) if not error], dtype=np.int64)
        values = np.full((len(self.members), len(chunk), len(self.names)), np.nan)
        embeddings = np.full((len(chunk), self.members[0].trial.model.width), np.nan)
        atoms = [np.empty((0, embeddings.shape[1]), np.float32) for _ in chunk]
        crystals = [crystal for row in good if (crystal := chunk[row].crystal) is not None]
        for cutoff in {member.trial.model.cutoff for member in self.members}:
            own = [index for index, member in enumerate(self.members) if member.trial.model.cutoff == cutoff]
            members = np.array(own, dtype=np.int64)
            passed = self._predict_crystals(crystals, cutoff, members)
            values[np.ix_(members, good)] = passed.values
            if own[0] == 0:
                embeddings[good] = passed.embeddings
                for row, states in zip(good, passed.atoms, strict=True):
                    atoms[row] = states
        for row in good:
            if np.isnan(values[:, row]).any():
                errors[row] = NO_MEMORY
            elif not np.isfinite(values[:, row]).all():
                errors[row] = "the model's prediction is not a finite number"
            if errors[row]:
                values[:, row] = np.nan
        return _Outcome(values, embeddings, atoms, errors)

    def _predict_crystals(self, crystals: Sequence[Crystal], cutoff: float, members: NDArray[np.int64]) -> _Outcome:
        """Return the outputs of the members of one cutoff; NaN where memory is too small."""
        loads = np.array([load_of(crystal, cutoff) for crystal in crystals], dtype=np.int64)
        width = self.members[members[0]].trial.model.width
        values = np.full((len(members), len(crystals), len(self.names)), np.nan)
        embeddings = np.full((len(crystals), width), np.nan)
        atoms = [np.empty((0, width), np.float32) for _ in crystals]
        waiting = packed_batches(loads, EVALUATION_ATOMS)[::-1]
        while waiting:
            positions = waiting.pop()
            try:
                passed = self._predict_batch([crystals[p] for p in positions], cutoff, members)
            except FAILED_ALLOCATION as error:
                if not is_out_of_memory(error):
                    raise
                release(self.members[0].model.embedding.weight.device)
                half = len(positions) // 2
                waiting += [positions[half:], positions[:half]] if half else []
                continue
            values[:, positions], embeddings[positions] = passed.values, passed.embeddings
            for position, states in zip(positions, passed.atoms, strict=True):
                atoms[position] = states
        return _Outcome(values, embeddings, atoms, [])

    @torch.no_grad()  # not inference_mode: kernels keep tensors that a training in this process uses, too
    def _predict_batch(self, crystals: Sequence[Crystal], cutoff: float, members: NDArray[np.int64]) -> _Outcome:
        frames = {self.members[index].trial.model.frame for index in members}
        frame = frames.pop() if len(frames) == 1 else None
        batch = collate([prepare_geometry(crystal, cutoff, frame, dtype=np.float32) for crystal in crystals], cutoff)
        predicted = []
        first = self.members[members[0]].model
        with watched(first) as seen:
            for index in members:
                member = self.members[index]
                outputs = member.model(batch.to(member.model.embedding.weight.device))
                finite = torch.where(outputs.isnan(), torch.inf, outputs)  # NaN says that there was no memory
                predicted.append(member.restore(finite.double().cpu().numpy()))
        atoms = torch.split(seen.atoms.float().cpu(), [crystal.num_atoms for crystal in crystals])
        embeddings = seen.crystals.double().cpu().numpy()
        return _Outcome(np.stack(predicted), embeddings, [states.numpy() for states in atoms], [])

    def _problem(self, crystal: Crystal | None) -> str:
        """Return why a crystal cannot be predicted, nothing if it can."""
        assert crystal is not None, "what could not be read has a reason"
        cutoff = max(member.trial.model.cutoff for member in self.members)
        neighbours = crystal.num_atoms * neighbours_per_atom(crystal, cutoff)
        if neighbours > MAX_NEIGHBOURS:
            return (
                f"{crystal.num_atoms} atoms have about {neighbours:.1e} neighbours within {cutoff:g} Å, expected at "
                f"most {MAX_NEIGHBOURS:.0e}: the cell is too large or its atoms are too close together"
            )
        return self._unknown_element(crystal)

    def _unknown_element(self, crystal: Crystal) -> str:
        """Return what is wrong with the elements of a crystal, nothing if all are known."""
        largest = max(crystal.elements)
        if largest <= self.num_elements:
            return ""
        return (
            f"contains {ELEMENTS[largest - 1]} (Z = {largest}); this model knows the elements 1 to {self.num_elements}"
        )


def neighbours_per_atom(crystal: Crystal, cutoff: float) -> float:
    """Return about how many neighbours an atom has within the cutoff in Å, itself included."""
    return 1 + crystal.num_atoms / crystal.volume * 4 / 3 * math.pi * cutoff**3


def load_of(crystal: Crystal, cutoff: float) -> int:
    """Return how many usual atoms a crystal is worth when a batch is filled."""
    return math.ceil(crystal.num_atoms * max(1.0, neighbours_per_atom(crystal, cutoff) / USUAL_NEIGHBOURS))


def _chunks(structures: Iterable[Reading], max_atoms: int) -> Iterator[list[Reading]]:
    """Yield structures of so many atoms together; the last chunk, perhaps the only one, may be empty."""
    chunk: list[Reading] = []
    atoms = 0
    for entry in structures:
        chunk.append(entry)
        atoms += 1 if entry.crystal is None else entry.crystal.num_atoms
        if atoms >= max_atoms:
            yield chunk
            chunk, atoms = [], 0
    yield chunk


def _targets_of(member: TrainedModel) -> str:
    return ", ".join(f"{target.name} [{target.unit}]" for target in member.targets)
