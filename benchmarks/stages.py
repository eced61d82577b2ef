"""Where a training step's time goes: attention kernel forward and backward, optimiser, and everything else."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import Sample, Stopwatch
from benchmarks.workload import Subject
from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels import AttentionInputs, AttentionKernel
from crystalframer.kernels.noise import TieSeed

STAGES = ("kernel_forward", "kernel_backward", "dense", "optimizer")
"""Parts of a step; `dense` is what the others leave: embedding, linear layers, pooling, loss, autograd's own work."""


def measure_stages(subject: Subject, repeats: int) -> dict[str, list[Sample]]:
    """Time the stages of `repeats` training steps; the timers are inside the model's own step."""
    watch = Stopwatch(subject.batch.vector.device)
    hooks = [block.attention.register_forward_pre_hook(_watching(watch)) for block in subject.model.levels]
    try:
        steps = [_watched_step(subject, watch) for _ in range(repeats + 1)][1:]
    finally:
        for hook in hooks:
            hook.remove()
    return {stage: [Sample(step[stage], float("nan")) for step in steps] for stage in STAGES}


def _watched_step(subject: Subject, watch: Stopwatch) -> dict[str, float]:
    watch.start("step")
    subject.differentiate()
    watch.start("optimizer")
    subject.update()
    watch.stop("optimizer")
    watch.stop("step")
    stages = watch.take()
    stages["dense"] = stages.pop("step") - sum(stages.values())
    return stages


def _watching(watch: Stopwatch) -> Any:
    """Return a hook that exchanges the kernel given to an attention layer for a watched one."""

    def exchange(_layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, batch, kernel, *rest = args
        return x, batch, _watched(kernel, watch), *rest

    return exchange


def _watched(kernel: AttentionKernel, watch: Stopwatch) -> AttentionKernel:
    def attend(
        inputs: AttentionInputs,
        batch: CrystalBatch,
        config: ModelConfig,
        tie_seed: TieSeed | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        names = [name for name, value in vars(inputs).items() if isinstance(value, Tensor)]
        tensors = _BackwardEnds.apply(watch, *(getattr(inputs, name) for name in names))  # type: ignore[no-untyped-call]
        fields: dict[str, Any] = dict(zip(names, tensors, strict=True))
        watch.start("kernel_forward")
        out = kernel(dataclasses.replace(inputs, **fields), batch, config, tie_seed, frames)
        watch.stop("kernel_forward")
        marked: Tensor = _BackwardBegins.apply(watch, out)  # type: ignore[no-untyped-call]
        return marked

    return attend


class _BackwardEnds(torch.autograd.Function):
    """The identity on a kernel's inputs; its backward pass runs when the kernel's is done."""

    @staticmethod
    def forward(ctx: Any, watch: Stopwatch, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.watch = watch
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.watch.stop("kernel_backward")
        return (None, *grads)


class _BackwardBegins(torch.autograd.Function):
    """The identity on a kernel's output; its backward pass runs just before the kernel's."""

    @staticmethod
    def forward(ctx: Any, watch: Stopwatch, out: Tensor) -> Tensor:
        ctx.watch = watch
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.watch.start("kernel_backward")
        return (None, *grads)
