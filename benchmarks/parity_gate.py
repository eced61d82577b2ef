"""The parity gate: what is not equal to the reference has no speed."""

from collections.abc import Iterator, Sequence

import torch

from benchmarks.settings import Settings, model_config
from benchmarks.workload import Workload
from crystalframer.config import FrameName, KernelName
from crystalframer.kernels import get_kernel
from crystalframer.kernels.parity import TensorError, compare

TIE_SEEDS = (None, 7)
"""Evaluation and training."""


class ParityError(RuntimeError):
    """A kernel computes something else than the reference; the message says which tensor and by how much."""


def check_parity(
    settings: Settings, workloads: Sequence[Workload]
) -> Iterator[tuple[KernelName, FrameName, str, Workload, TensorError]]:
    """Compare every kernel but the reference on every variant and size; yield the worst tensor of each.

    Raises:
        ParityError: at the first tensor that is off.
    """
    device = torch.device(settings.device)
    for kernel in settings.kernels:
        if kernel == "reference":
            continue
        for frame, preset in settings.variants:
            config = model_config(settings, frame, preset)
            for workload in workloads:
                found = [
                    error
                    for tie_seed in TIE_SEEDS
                    for error in compare(
                        get_kernel(kernel),
                        workload.crystals,
                        config,
                        tie_seed,
                        device=device,
                        leave_out_undecided=True,
                    )
                ]
                for error in found:
                    if not error.ok:
                        raise ParityError(f"{kernel}, {frame}/{preset}, {workload}: {error}")
                yield kernel, frame, preset, workload, max(found, key=lambda error: error.error)
