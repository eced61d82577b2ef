"""Optimiser steps that stay on the device: what a GPU needs to be kept busy.

The crystals live on the device (`ResidentCrystals`), an epoch's order is sent there at once, and nothing is asked of
it before the epoch's end. On a GPU each step is recorded as a CUDA graph, one for every shape that batches are padded
to, and then replayed: one launch instead of some hundreds.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalframer.config import TrainConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.resident import PaddedShape, ResidentCrystals
from crystalframer.nn.model import CrystalFramer
from crystalframer.training.gradient import Scales
from crystalframer.training.metrics import Target
from crystalframer.training.optimizer import set_learning_rate, trainable_parameters
from crystalframer.training.out_of_memory import FAILED_ALLOCATION, is_out_of_memory, release
from crystalframer.training.precision import arithmetic

WARM_UP_STEPS = 2
"""Steps of a shape done one by one before they are recorded: kernels are compiled and the optimiser's state made."""

_log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What consecutive steps came to."""

    losses: NDArray[np.float64]
    """Mean L1 loss on standardised targets of each step"""
    norms: NDArray[np.float64]
    """Norm of each step's gradient before clipping"""


class DeviceSteps:
    """Does a training's steps on its device, if they are wanted there and as long as its memory has room for it.

    Args:
        model: what is trained.
        optimizer: of its trainable parameters, able to be captured where the device is a GPU.
        targets: scales of the T targets.
        data: the crystals.
        config: batch size, clipping and precision.
        wanted: whether steps are to stay on the device at all.
    """

    def __init__(
        self,
        model: CrystalFramer,
        optimizer: torch.optim.Optimizer,
        targets: Sequence[Target],
        data: TaskData,
        config: TrainConfig,
        *,
        wanted: bool,
    ) -> None:
        self.resident: ResidentCrystals | None = None
        """All crystals of all splits, once they are on the device"""
        self._wanted = wanted
        self._model = model
        self._optimizer = optimizer
        self._targets = targets
        self._data = data
        self._config = config
        self._device = next(model.parameters()).device
        self._step: _RecordedStep | None = None
        self._order = torch.zeros(0, dtype=torch.int64)
        self._shapes: list[PaddedShape] = []
        self._results: list[Tensor] = []

    def begin(self, batches: Sequence[NDArray[np.int64]]) -> None:
        """Send the order of the next steps, the rows of the data set for each; before the first, send the crystals."""
        if not (self._wanted and batches):
            return
        try:
            resident = self.resident if self.resident is not None else self._settle_down()
            indices = [resident.index_of(rows) for rows in batches]
            self._shapes = [resident.shape_for(index) for index in indices]
            self._order = torch.from_numpy(np.stack(indices)).to(self._device)
        except FAILED_ALLOCATION as error:
            self._leave(error)

    def step(self, place: int, tie_seed: int, rate: float) -> bool:
        """Do a step, which the device may still be at on return; False if it is to be done from the host.

        Args:
            place: of its batch among those begun with.
            tie_seed: seed of what breaks ties.
            rate: learning rate.
        """
        if self._step is None:
            return False
        try:
            set_learning_rate(self._optimizer, rate)
            self._results.append(self._step.run(self._order[place], tie_seed, self._shapes[place]).clone())
        except FAILED_ALLOCATION as error:
            self._leave(error)
            return False
        return True

    def outcome(self) -> Outcome:
        """Wait for the device, and return what the steps since the last call came to."""
        if not self._results:
            return Outcome(np.zeros(0), np.zeros(0))
        results = torch.stack(self._results).double().cpu().numpy()
        self._results = []
        return Outcome(results[:, 0], results[:, 1])

    def _settle_down(self) -> ResidentCrystals:
        rows = np.unique(np.concatenate(list(self._data.rows.values())))
        resident = ResidentCrystals(self._data, rows, self._model.config.cutoff, self._device)
        self._step = _RecordedStep(self._model, self._optimizer, resident, self._targets, self._config)
        self.resident = resident
        return resident

    def _leave(self, error: Exception) -> None:
        """Give up residence if memory is too small for it; any other error goes on."""
        if not is_out_of_memory(error):
            raise error
        self._wanted, self.resident, self._step = False, None, None
        release(self._device)
        _log.warning(
            "not enough memory on %s for all crystals and a batch of them: from now on batches come from the host, "
            "which is slower", self._device,
        )  # fmt: skip


class _RecordedStep:
    """One optimiser step that reads what changes from buffers on the device, so that it can be recorded."""

    def __init__(
        self,
        model: CrystalFramer,
        optimizer: torch.optim.Optimizer,
        resident: ResidentCrystals,
        targets: Sequence[Target],
        config: TrainConfig,
    ) -> None:
        device = resident.device
        self._model = model
        self._optimizer = optimizer
        self._resident = resident
        self._config = config
        self._parameters = trainable_parameters(model)
        self._scales = Scales(targets, device)
        self._index = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
        self._tie_seed = torch.zeros((), dtype=torch.int64, device=device)
        self._done: Counter[PaddedShape] = Counter()
        self._records: dict[PaddedShape, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def run(self, index: Tensor, tie_seed: int, shape: PaddedShape) -> Tensor:
        """Do a step as it comes, record it, or replay the record; return its loss and gradient norm, (2,)."""
        self._index.copy_(index)
        self._tie_seed.fill_(tie_seed)
        if self._pool is None:
            return self._compute(shape)
        self._done[shape] += 1
        if self._done[shape] <= WARM_UP_STEPS:
            return self._aside(shape)
        if shape not in self._records:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                result = self._compute(shape)
            self._records[shape] = graph, result
        graph, result = self._records[shape]
        graph.replay()
        return result

    def _aside(self, shape: PaddedShape) -> Tensor:
        """Do a step on a stream of its own, as recording wants it of those before."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self._compute(shape)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _compute(self, shape: PaddedShape) -> Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        batch = self._resident.gather(self._index, shape)
        assert batch.targets is not None, "resident crystals have targets"
        with arithmetic(self._config.precision, self._resident.device):
            predicted = self._model(batch, tie_seed=self._tie_seed)[: len(self._index)]
        loss = self._scales.error_sum(predicted, batch.targets) / torch.isfinite(batch.targets).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm)
        self._optimizer.step()
        return torch.stack([loss.detach(), norm.detach()])
