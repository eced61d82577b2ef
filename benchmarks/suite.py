"""The measurements of one case after the other, as rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.machine import load, provenance
from benchmarks.peak_memory import STEPS, peak_memory
from benchmarks.rows import Case, Row
from benchmarks.settings import Settings, model_config
from benchmarks.stages import measure_stages
from benchmarks.timing import Sample, Spread, interleaved, ratio, threads
from benchmarks.workload import Subject, Workload
from crystalframer.config import FrameName, KernelName
from crystalframer.geometry.prepared import Geometry
from crystalframer.kernels.parity import TensorError

REFERENCE: KernelName = "reference"
STAGE_STEPS = 3
"""Steps whose stages are timed at most."""
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Point:
    """One frame, preset, batch of crystals and number of threads: all kernels are measured on it side by side."""

    frame: FrameName
    preset: str
    workload: Workload
    threads: int

    def __str__(self) -> str:
        return f"{self.frame}/{self.preset}, {self.workload}, threads: {self.threads}"


def points(settings: Settings, workloads: Sequence[Workload]) -> list[Point]:
    """Return every point of a benchmark."""
    return [
        Point(frame, preset, workload, count)
        for count in settings.threads
        for frame, preset in settings.variants
        for workload in workloads
    ]


def parity_row(
    settings: Settings, kernel: KernelName, frame: FrameName, preset: str, workload: Workload, worst: TensorError
) -> Row:
    """Return the worst error of a kernel on one batch as a row."""
    return Row(
        replace(_case(settings, frame, preset, workload, torch.get_num_threads()), kernel=kernel),
        "parity",
        "relative RMS",
        Spread(worst.error, worst.error, worst.error),
        load=load(),
        note=f"{worst.name}, the worst of output and gradients of one block; {worst.allowed:.1e} is allowed",
        provenance=provenance(settings.device),
    )


def measure(settings: Settings, point: Point) -> Iterator[Row]:
    """Measure all kernels on one point: times, stages and, with the first number of threads, memory."""
    device, workload = torch.device(settings.device), point.workload
    config = model_config(settings, point.frame, point.preset)
    geometries = workload.geometries()
    batch = workload.collate(geometries, device)
    busy = load()
    with threads(point.threads):
        subjects = {kernel: Subject(kernel, config, batch) for kernel in settings.kernels}
        timed = interleaved(_calls(subjects, workload, geometries, device), settings.repeats, settings.seconds, device)
        steps = min(STAGE_STEPS, settings.repeats)
        stages = {kernel: measure_stages(subject, steps) for kernel, subject in subjects.items()}
    case = _case(settings, point.frame, point.preset, workload, point.threads)
    for row in [
        *_step_rows(settings, case, timed, workload),
        *_stage_rows(settings, case, timed, stages),
        *(_memory_rows(settings, case, point) if settings.memory and point.threads == settings.threads[0] else ()),
    ]:
        yield replace(row, load=busy, provenance=provenance(settings.device))


def _calls(
    subjects: dict[KernelName, Subject], workload: Workload, geometries: list[Geometry], device: torch.device
) -> dict[tuple[str, str], Callable[[], object]]:
    """Return what is timed, by kernel ("" for all alike) and quantity."""
    calls: dict[tuple[str, str], Callable[[], object]] = {
        ("", "neighbours"): workload.geometries,
        ("", "collate"): lambda: workload.collate(geometries, device),
    }
    for kernel, subject in subjects.items():
        calls |= {(kernel, "forward"): subject.forward, (kernel, "step"): subject.step}
    return calls


def _case(settings: Settings, frame: FrameName, preset: str, workload: Workload, threads: int) -> Case:
    geometries = workload.geometries()
    atoms = sum(geometry.num_atoms for geometry in geometries)
    edges = sum(geometry.num_edges for geometry in geometries)
    return Case(
        kernel="",
        frame=frame,
        preset=preset,
        cutoff_angstrom=settings.cutoff,
        crystals=workload.source,
        size=workload.size,
        atoms_per_crystal=round(workload.atoms_per_crystal, 3),
        neighbours_per_atom=round(edges / atoms - 1, 1),
        crystals_per_batch=len(geometries),
        threads=threads,
    )


def _step_rows(
    settings: Settings, case: Case, timed: dict[tuple[str, str], list[Sample]], workload: Workload
) -> Iterator[Row]:
    """Rows of forward pass, training step and, for real crystals, epoch."""
    scale = 1e3 / case.crystals_per_batch
    for kernel in settings.kernels:
        own = replace(case, kernel=kernel)
        for quantity in ("forward", "step"):
            samples = timed[kernel, quantity]
            faster = ratio(timed[REFERENCE, quantity], samples) if REFERENCE in settings.kernels else None
            yield Row(own, quantity, "ms/crystal", Spread.of(samples, scale), faster)
        if workload.epoch_crystals is not None:
            both = zip(timed[kernel, "step"], timed["", "collate"], strict=True)
            samples = [Sample(step.wall + collate.wall, step.cpu + collate.cpu) for step, collate in both]
            yield Row(
                own,
                "epoch",
                "s",
                Spread.of(samples, workload.epoch_crystals / case.crystals_per_batch),
                note=f"extrapolated from one batch of {case.crystals_per_batch} to {workload.epoch_crystals} training "
                "crystals; collation and training steps, neighbours already known, no validation",
            )


def _stage_rows(
    settings: Settings,
    case: Case,
    timed: dict[tuple[str, str], list[Sample]],
    stages: dict[KernelName, dict[str, list[Sample]]],
) -> Iterator[Row]:
    """Rows of what a training step's time is spent on."""
    scale = 1e3 / case.crystals_per_batch
    notes = {"neighbours": "once per crystal and training", "collate": "once per step"}
    for stage, note in notes.items():
        yield Row(case, f"stage_{stage}", "ms/crystal", Spread.of(timed["", stage], scale), note=note)
    for kernel in settings.kernels:
        for stage, samples in stages[kernel].items():
            yield Row(
                replace(case, kernel=kernel), f"stage_{stage}", "ms/crystal", Spread.of(samples, scale), note="of step"
            )


def _memory_rows(settings: Settings, case: Case, point: Point) -> Iterator[Row]:
    notes: dict[str, Any] = {
        "peak": "of a process that makes the batch and trains on it" if settings.device == "cpu" else "on the device",
        "step": f"of that, added by the batch and {STEPS} steps on it",
    }
    for kernel in settings.kernels:
        found = peak_memory(settings, kernel, point.frame, point.preset, point.workload.size, point.threads)
        for name, note in notes.items():
            mebibytes = found[name] / MEBIBYTE
            spread = Spread(mebibytes, mebibytes, mebibytes)
            yield Row(replace(case, kernel=kernel), f"memory_{name}", "MiB", spread, note=note)
