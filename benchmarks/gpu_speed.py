"""The stages of `benchmarks.on_gpu` that ask how fast: training, the reference, a profile, a large cell, sharing.

Each is a function that yields records, and runs in a process of its own.
"""

import functools
import multiprocessing
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from benchmarks.gpu_cases import BATCH, CUTOFF, peak_gfma, task_of, trial_of, workload_of
from benchmarks.measure_training import edges_per_crystal, measure
from benchmarks.settings import Settings, model_config
from benchmarks.timing import interleaved, ratio, synchronize
from benchmarks.workload import Subject, Workload
from crystalframer.config import FrameName, KernelName
from crystalframer.kernels import resolve_kernel
from crystalframer.kernels.parity import random_crystal
from crystalframer.training.trainer import Trainer

if TYPE_CHECKING:
    from benchmarks.on_gpu import Plan, Record


def training(plan: "Plan") -> "Iterator[Record]":
    """Time training per frame, preset and precision; float32 first, in case time is short."""
    data, peak, best = task_of(plan), peak_gfma(plan.device), ""
    edges = edges_per_crystal(data, trial_of(plan).model.cutoff)
    variants = [("max", "default"), ("none", "default"), ("weighted_pca", "default")]
    variants += [("max", "lightweight"), ("weighted_pca", "lightweight")]
    precisions = ("float32", "tf32", "bf16") if plan.device.startswith("cuda") else ("float32", "bf16")
    for precision in precisions:
        for frame, preset in variants[: 1 if plan.quick else None]:
            settings = {"model.frame": frame, "model.preset": preset, "train.precision": precision}
            row = measure(trial_of(plan, **settings), preset, data, plan.device, None, edges)
            best = (
                best or f"{frame}/{preset}: {row.ms_per_step:.2f} ms a step, {row.crystals_per_second:,.0f} crystals/s"
            )
            yield {
                "frame": frame, "preset": preset, "precision": precision, "batches": row.batches,
                "ms_per_step": row.ms_per_step, "crystals_per_s": row.crystals_per_second, "peak_MiB": row.peak_mib,
                "attention_GFMA_per_s": row.attention_gfma_per_second,
                "of_the_peak": row.attention_gfma_per_second / peak if peak else None, "loss": row.train_loss,
            }  # fmt: skip
    yield {"summary": best}


def reference(plan: "Plan") -> "Iterator[Record]":
    """Time forward passes and steps beside the reference's, in turns."""
    device, fast = torch.device(plan.device), resolve_kernel("auto", torch.device(plan.device))
    workload = workload_of(plan, 4 if plan.quick else 32)
    said = []
    for frame in ("max",) if plan.quick else ("none", "max", "weighted_pca"):
        config = model_config(Settings(cutoff=workload.cutoff), cast(FrameName, frame), "default")
        batch = workload.collate(workload.geometries(), device)
        names: tuple[KernelName, ...] = ("reference", fast)
        subjects = {name: Subject(name, config, batch) for name in names}
        calls = {name: subject.step for name, subject in subjects.items()}
        times = interleaved(calls, 2 if plan.quick else 5, 0.0 if plan.quick else 0.1, device)
        faster = ratio(times["reference"], times[fast])
        said.append(f"{frame} ×{faster:.1f}")
        yield {
            "frame": frame, "crystals": len(workload.crystals), "kernel": fast,
            **{f"{name}_ms_per_step": 1e3 * float(np.median([one.wall for one in times[name]])) for name in names},
            "times_faster": faster,
        }  # fmt: skip
    yield {"summary": f"a step of {len(workload.crystals)} crystals, plain torch against {fast}: {', '.join(said)}"}


def profile(plan: "Plan") -> "Iterator[Record]":
    """List what one step of a batch spends its time on."""
    device = torch.device(plan.device)
    workload = workload_of(plan, 4 if plan.quick else BATCH)
    config = model_config(Settings(cutoff=workload.cutoff), "max", "default")
    kernel = resolve_kernel("auto", device)
    subject = Subject(kernel, config, workload.collate(workload.geometries(), device))
    for _ in range(3):
        subject.step()
    synchronize(device)
    on_gpu = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    started = time.perf_counter()
    with torch.profiler.profile(activities=[activity]) as profiler:
        subject.step()
        synchronize(device)
    wall = time.perf_counter() - started
    spent = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
    ]
    total, launches = sum(time for time, _, _ in spent) or 1.0, sum(count for _, count, _ in spent)
    for micros, count, name in sorted(spent, reverse=True)[:16]:
        yield {"what": name[:80], "times": count, "ms": micros / 1e3, "share": micros / total}
    unit = "kernels on the GPU" if on_gpu else "operations"
    yield {"summary": f"a step of {len(workload.crystals)} crystals: {launches} {unit}, {total / 1e3:.2f} ms in them, "
           f"{1e3 * wall:.2f} ms by the clock while watched"}  # fmt: skip


def large_cell(plan: "Plan") -> "Iterator[Record]":
    """Predict and train on one cell of thousands of atoms."""
    device, atoms, said = torch.device(plan.device), 40 if plan.quick else 5000, []
    cutoff = 4.0 if plan.quick else CUTOFF
    workload = Workload(str(atoms), "random", (random_crystal(atoms),), cutoff)
    started = time.perf_counter()
    batch = workload.collate(workload.geometries(), device)
    prepared = time.perf_counter() - started
    for frame in ("max",) if plan.quick else ("max", "weighted_pca"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        config = model_config(Settings(cutoff=cutoff), cast(FrameName, frame), "default")
        subject = Subject(resolve_kernel("auto", device), config, batch)
        times = interleaved({"forward": subject.forward, "step": subject.step}, 2 if plan.quick else 5, 0.0, device)
        forward, step = (1e3 * float(np.median([one.wall for one in times[name]])) for name in ("forward", "step"))
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in subject.parameters)
        said.append(f"{frame} {forward:.1f} ms to predict, {step:.1f} ms a step")
        yield {
            "frame": frame, "atoms": atoms, "entries": batch.num_edges, "preparing_s": prepared, "forward_ms": forward,
            "step_ms": step, "ok": finite,
            "peak_MiB": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
        }  # fmt: skip
    yield {"summary": f"{atoms:,} atoms: {'; '.join(said)}"}


def sharing(plan: "Plan") -> "Iterator[Record]":
    """Let one, two and four trainings of their own processes run at once, and add up what they do."""
    alone, said = 0.0, []
    seconds = 0.5 if plan.quick else 5.0
    for count in (1, 2) if plan.quick else (1, 2, 4):
        context = multiprocessing.get_context("fork")  # this process itself has not touched the device
        together, results = context.Barrier(count), context.SimpleQueue()
        work = functools.partial(_share, plan, seconds, together, results)
        processes = [context.Process(target=work) for _ in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        died = [process.exitcode for process in processes if process.exitcode]
        rates = [] if died else [results.get() for _ in range(count)]
        alone = alone or sum(rates)
        yield {
            "trainings": count, "crystals_per_s_together": sum(rates), "slowest": min(rates, default=0.0),
            "times_one_alone": sum(rates) / alone if alone else None, "ok": not died,
        }  # fmt: skip
        said.append(f"{count} → {sum(rates):,.0f}")
    yield {"summary": f"crystals a second of all together: {', '.join(said)}"}


def _share(plan: "Plan", seconds: float, together: Any, results: Any) -> None:
    """Train until everyone is warm, then for some seconds; tell the crystals a second."""
    trial = trial_of(plan, **{"train.epochs": 100_000, "train.average_epochs": 0})
    trainer = Trainer(trial, task_of(plan), device=plan.device)
    next(iter(trainer.fit()))
    together.wait(timeout=plan.seconds)
    before, started = trainer.progress.step, time.perf_counter()

    def after_step(_loss: float) -> None:
        if time.perf_counter() - started > seconds:
            trainer.stop()

    for _ in trainer.fit(after_step):
        pass
    synchronize(trainer.device)
    steps = trainer.progress.step - before
    results.put(steps * trial.train.batch_size / (time.perf_counter() - started))
