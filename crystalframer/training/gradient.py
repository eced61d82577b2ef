"""Loss and gradient of a batch: in as many parts as memory asks for, over as many processes as there are."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalframer.config import Precision
from crystalframer.data.batch import BatchLoader, CrystalBatch, Preceding
from crystalframer.nn.model import CrystalFramer
from crystalframer.training.inference import too_large
from crystalframer.training.metrics import Target
from crystalframer.training.optimizer import trainable_parameters
from crystalframer.training.out_of_memory import FAILED_ALLOCATION, is_out_of_memory, release
from crystalframer.training.precision import arithmetic
from crystalframer.training.processes import ALONE, Processes, split_by_cost

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepGradient:
    """What the processes found out about a batch together, the gradient itself aside."""

    loss: float
    """Mean L1 loss on standardised targets, over the targets that are there."""
    stop: bool
    """Whether any process was told to stop."""


class Scales:
    """The scales of T targets, on a device."""

    def __init__(self, targets: Sequence[Target], device: torch.device) -> None:
        self._mean = torch.tensor([target.mean for target in targets], dtype=torch.float32, device=device)
        self._std = torch.tensor([target.std for target in targets], dtype=torch.float32, device=device)

    def error_sum(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the absolute errors of standardised predictions, (S, T), over targets that are there."""
        wanted = (targets - self._mean) / self._std
        if len(self._mean) > 1:
            wanted = torch.where(wanted.isnan(), predicted.detach(), wanted)
        return (predicted - wanted).abs().sum()


class BatchGradient:
    """Computes the gradient of the mean loss of a batch into the parameters' ``grad``.

    The loss is a mean over crystals (over the targets they have), so parts and processes add up their sums divided by
    the number of the whole batch: the result is that of the batch in one piece, to float32's rounding. Ties are
    broken by a crystal's place in the whole batch (`CrystalBatch.preceding`), hence alike as well.

    Where memory is too small for a batch, it is computed in twice as many parts, and the number is kept for all
    batches to come. Parts, and the processes' shares, are consecutive crystals of about the same number of neighbour
    entries (atoms times neighbours), which is what time and memory of the attention grow with.
    """

    def __init__(
        self,
        model: CrystalFramer,
        loader: BatchLoader,
        targets: Sequence[Target],
        *,
        device: torch.device,
        processes: Processes = ALONE,
        edges: NDArray[np.int64] | None = None,
        precision: Precision = "float32",
    ) -> None:
        """Prepare.

        Args:
            model: what is trained; its trainable parameters get the gradient.
            loader: makes batches of data set rows.
            targets: scales of the T targets.
            device: where the model lives.
            processes: who shares the work.
            edges: (n,) neighbour entries of each row of the data set, where they are known beforehand.
            precision: of the linear layers.
        """
        self._precision: Precision = precision
        self.parts = 1
        """Parts that a process' share of a batch is computed in."""
        self._model = model
        self._loader = loader
        self._device = device
        self._processes = processes
        self._edges = edges
        self._parameters = trainable_parameters(model)
        self._scales = Scales(targets, device)

    def compute(self, rows: NDArray[np.int64], tie_seed: int, *, stop: bool = False) -> StepGradient:
        """Compute the gradient of the crystals of `rows`.

        Args:
            rows: (S,) rows of the data set, the same in every process.
            tie_seed: seed of what breaks ties.
            stop: whether this process was told to stop.

        Raises:
            UserError: memory is too small for a single crystal; the message names the largest one.
            LostProcessError: another process is gone.
        """
        present = int(np.isfinite(self._loader.data.targets[rows]).sum())
        share = slice(None)  # of a process that is alone
        if self._edges is not None:
            share = split_by_cost(self._edges[rows], self._processes.size)[self._processes.rank]
        loss = self._within_memory(rows, share, tie_seed, present)
        if self._processes.size == 1:
            return StepGradient(float(loss), stop)
        return self._add_up(loss, stop)

    def _within_memory(self, rows: NDArray[np.int64], share: slice, tie_seed: int, present: int) -> Tensor:
        """Return the loss of a share, its gradient accumulated; halve its parts until they fit."""
        parts = self.parts
        while True:
            try:
                loss = self._accumulate(rows, share, tie_seed, present)
                break
            except FAILED_ALLOCATION as error:
                if not is_out_of_memory(error):
                    raise
            self._clear()
            release(self._device)
            if self.parts >= len(rows[share]):
                raise too_large(self._loader, rows[share], self._device)
            self.parts *= 2
        if self.parts != parts:
            _log.warning(
                "not enough memory on %s for a batch in %d part(s): from now on in %d parts, with the same gradient",
                self._device, parts, self.parts,
            )  # fmt: skip
        return loss

    def _accumulate(self, rows: NDArray[np.int64], share: slice, tie_seed: int, present: int) -> Tensor:
        self._clear()
        loss = torch.zeros((), device=self._device)
        for part in self._cut(rows, share):
            batch = self._part(rows, part).to(self._device)
            part_loss = self._error_sum(batch, tie_seed) / present
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss = loss + part_loss.detach()
        return loss

    def _error_sum(self, batch: CrystalBatch, tie_seed: int) -> Tensor:
        """Return the sum of absolute errors of standardised targets, over those that are there."""
        assert batch.targets is not None, "the loader gives every batch its targets"
        with arithmetic(self._precision, self._device):
            predicted: Tensor = self._model(batch, tie_seed=tie_seed)
        return self._scales.error_sum(predicted, batch.targets)

    def _cut(self, rows: NDArray[np.int64], share: slice) -> list[slice]:
        """Return the parts of a share as slices of the whole batch, without empty ones."""
        start, stop, _ = share.indices(len(rows))
        if self.parts == 1:
            return [slice(start, stop)] if stop > start else []
        if self.parts >= stop - start:
            return [slice(place, place + 1) for place in range(start, stop)]
        parts = split_by_cost(self._geometry_edges(rows[start:stop]), self.parts)
        return [slice(start + part.start, start + part.stop) for part in parts if part.stop > part.start]

    def _part(self, rows: NDArray[np.int64], part: slice) -> CrystalBatch:
        """Return a part of a batch that knows its place in the whole."""
        batch = self._loader.batch(rows[part])
        if part.start == 0:
            return batch
        before = rows[: part.start]
        edges = self._geometry_edges(before) if self._edges is None else self._edges[before]
        atoms = self._loader.data.dataset.num_atoms[before]
        return replace(batch, preceding=Preceding(len(before), int(atoms.sum()), int(edges.sum())), derived={})

    def _add_up(self, loss: Tensor, stop: bool) -> StepGradient:
        """Sum gradients and loss over the processes in one go; agree on stopping and on the number of parts."""
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in self._parameters]
        words = torch.zeros(2 + self._processes.size, device=self._device)
        words[0], words[1], words[2 + self._processes.rank] = loss, float(stop), float(self.parts)
        flat = self._processes.add_up(torch.cat([*(gradient.flatten() for gradient in gradients), words]))
        pieces = torch.split(flat, [*(gradient.numel() for gradient in gradients), len(words)])
        for value, piece in zip(self._parameters, pieces[:-1], strict=True):
            value.grad = piece.view_as(value)
        found = pieces[-1].tolist()
        self.parts = int(max(found[2:]))
        return StepGradient(found[0], found[1] > 0)

    def _geometry_edges(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self._loader.geometry(int(row)).num_edges for row in rows], dtype=np.int64)

    def _clear(self) -> None:
        for value in self._parameters:
            value.grad = None


def count_edges(loader: BatchLoader, rows: NDArray[np.int64], processes: Processes) -> NDArray[np.int64] | None:
    """Return (n,) neighbour entries of the data set's rows, 0 but for `rows`; None for a process that is alone.

    Each process prepares an equal number of crystals, and all learn of all.
    """
    if processes.size == 1:
        return None
    counts = torch.zeros(len(loader.data.dataset), dtype=torch.int64)
    for row in rows[processes.rank :: processes.size]:
        counts[int(row)] = loader.geometry(int(row)).num_edges
    return processes.add_up(counts).numpy()
