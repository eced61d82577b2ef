"""The stages of `benchmarks.on_gpu` that ask whether all is right: machine, kernels, batches, resuming.

Each is a function that yields records, and runs in a process of its own.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from benchmarks.gpu_cases import nvidia_smi, peak_gfma, task_of, trial_of
from benchmarks.machine import ROOT, provenance
from benchmarks.measure_training import edges_per_crystal, measure
from benchmarks.settings import Settings, model_config
from crystalframer.config import FRAMES, FrameName
from crystalframer.kernels import get_kernel, resolve_kernel
from crystalframer.kernels.parity import compare, random_crystal
from crystalframer.training import device_steps
from crystalframer.training.devices import check_device
from crystalframer.training.trainer import Trainer

if TYPE_CHECKING:
    from benchmarks.on_gpu import Plan, Record

NEEDED = ("numpy", "torch", "triton", "numba", "pydantic", "vesin", "yaml", "pyarrow", "rich")
"""What training imports beside the package."""
SAME_LOSS = 1e-3
"""Relative difference of an epoch's mean loss that rounding alone may come to."""


def environment(plan: "Plan") -> "Iterator[Record]":
    """Say what this machine is; fail where something is missing."""
    for name, value in provenance(plan.device).items():
        yield {"item": name, "value": value}
    yield {"item": "numpy", "value": np.__version__}
    if plan.device.startswith("cuda"):
        yield {"item": "CUDA that torch was built for", "value": torch.version.cuda or "none"}
    check_device(plan.device)
    if plan.device.startswith("cuda"):
        about = torch.cuda.get_device_properties(plan.device)
        yield {"item": "compute capability", "value": f"{about.major}.{about.minor}"}
        yield {"item": "multiprocessors", "value": about.multi_processor_count}
        yield {"item": "memory in GiB", "value": about.total_memory / 2**30}
        yield {"item": "driver", "value": nvidia_smi("driver_version") or "unknown"}
        if peak := peak_gfma(plan.device):
            yield {"item": "peak in float32, GFMA/s", "value": peak}
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if plan.device == "cpu" and "triton" in missing:
        missing.remove("triton")
    yield {"item": "packages that are missing", "value": ", ".join(missing) or "none", "ok": not missing}
    yield {"summary": f"{provenance(plan.device)['device']}; packages missing: {', '.join(missing) or 'none'}"}


def kernels(plan: "Plan") -> "Iterator[Record]":
    """Run the kernels' tests on a GPU; where pytest or the tests are missing, or on a CPU, compare them here."""
    tests = ROOT / "tests" / "kernels"
    if plan.device.startswith("cuda") and tests.is_dir() and importlib.util.find_spec("pytest") is not None:
        yield from _tested(plan, tests)
    else:
        yield from _compared(plan)


def _tested(plan: "Plan", tests: Path) -> "Iterator[Record]":
    spread = ["-n", "4"] if importlib.util.find_spec("xdist") is not None else []
    command = [
        sys.executable, "-m", "pytest", str(tests.relative_to(ROOT)), "-v", "--tb=short", "-p", "no:cacheprovider",
        "-W", "default", "-m", "not slow", *spread,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    outcomes: dict[str, str] = {}
    done = True
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        try:
            subprocess.run(
                command, cwd=ROOT, env=environment, stdout=output, timeout=max(1.0, plan.seconds - 8), check=False
            )
        except subprocess.TimeoutExpired:
            done = False
        output.seek(0)
        for line in output:
            print(line, end="")
            found = re.match(r"(?P<test>tests/\S+::.+?) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED)", line) or re.match(
                r"\[gw\d+\] \[ *\d+%\] (?P<outcome>PASSED|FAILED|ERROR|SKIPPED) (?P<test>tests/\S+::.+)", line
            )
            if found is not None:
                outcomes[found["test"].strip()] = found["outcome"]
    bad = [test for test, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]
    for test in bad:
        yield {"test": test, "ok": False}
    counts = Counter(outcomes.values())
    passed = f"{counts['PASSED']} tests passed, {len(bad)} failed, {counts['SKIPPED']} were skipped"
    if not done:
        yield {"test": "the others", "ok": False, "note": f"not done after {plan.seconds:.0f} s"}
    elif not counts["PASSED"]:
        yield {"test": "all", "ok": False, "note": "none passed"}
    yield {"summary": passed + ("" if done else "; the others were not reached")}


def _compared(plan: "Plan") -> "Iterator[Record]":
    kernel = resolve_kernel("auto", torch.device(plan.device))
    sizes, cutoff, frames = ((1, 2), 4.0, ("none", "max")) if plan.quick else ((1, 2, 9, 40), 6.0, FRAMES)
    crystals = [random_crystal(size) for size in sizes]
    worst, count = 0.0, 0
    for frame in frames:
        for preset in ("default", "lightweight") if frame != "none" else ("default",):
            for tie_seed in (None, 7):
                config = model_config(Settings(cutoff=cutoff), cast(FrameName, frame), preset)
                errors = compare(
                    get_kernel(kernel), crystals, config, tie_seed, device=plan.device, leave_out_undecided=True
                )
                most = max(errors, key=lambda error: error.error / error.allowed)
                worst, count = max(worst, most.error / most.allowed), count + 1
                yield {
                    "kernel": kernel, "frame": frame, "preset": preset,
                    "mode": "evaluation" if tie_seed is None else "training", "worst": most.name,
                    "error": most.error, "allowed": most.allowed, "ok": most.ok,
                }  # fmt: skip
    yield {"summary": f"{kernel}: {count} comparisons with the reference, at worst {worst:.2f} of what is allowed"}


def batches(plan: "Plan") -> "Iterator[Record]":
    """Train alike with batches from the host, with resident crystals step by step, and with recorded steps."""
    data, losses, speeds = task_of(plan), {}, {}
    trial = trial_of(plan)
    edges = edges_per_crystal(data, trial.model.cutoff)
    recorded = device_steps.WARM_UP_STEPS
    for way, resident, warm_up in (("host", False, recorded), ("resident", True, 10**9), ("recorded", True, recorded)):
        device_steps.WARM_UP_STEPS = warm_up  # so many steps are never recorded
        row = measure(trial, "default", data, plan.device, resident, edges)
        losses[way], speeds[way] = row.first_train_loss, row.ms_per_step
        off = abs(losses[way] / losses["host"] - 1)
        yield {
            "batches": way, "ms_per_step": row.ms_per_step, "crystals_per_s": row.crystals_per_second,
            "loss_of_the_first_epoch": losses[way], "off_the_host's": off, "peak_MiB": row.peak_mib,
            "ok": off <= SAME_LOSS,
        }  # fmt: skip
    yield {
        "summary": f"host {speeds['host']:.2f} ms a step, resident {speeds['resident']:.2f}, recorded "
        f"{speeds['recorded']:.2f}; losses of the first epoch agree to "
        f"{max(abs(loss / losses['host'] - 1) for loss in losses.values()):.1e}"
    }


def resume(plan: "Plan") -> "Iterator[Record]":
    """Compare a training that was stopped within an epoch, saved and resumed with one that was not."""
    data = task_of(plan, steps=6)
    trial = trial_of(plan, **{"train.epochs": 3, "train.average_epochs": 1})
    straight = Trainer(trial, data, device=plan.device)
    list(straight.fit())
    stopped = Trainer(trial, data, device=plan.device)
    steps_left = [straight.steps_per_epoch + 2]

    def after_step(_loss: float) -> None:
        steps_left[0] -= 1
        if not steps_left[0]:
            stopped.stop()

    list(stopped.fit(after_step))
    with tempfile.TemporaryDirectory() as folder:
        stopped.save(Path(folder) / "checkpoint.pt")
        resumed = Trainer(trial, data, device=plan.device)
        resumed.restore(Path(folder) / "checkpoint.pt")
    at = resumed.progress.step
    list(resumed.fit())
    pairs = list(zip(straight.model.parameters(), resumed.model.parameters(), strict=True))
    most = max(float((a - b).detach().abs().max()) for a, b in pairs)
    same = all(torch.equal(a, b) for a, b in pairs)
    errors = [[epoch.val_mae for epoch in trainer.history] for trainer in (straight, resumed)]
    yield {"stopped_at_step": at, "of": straight.progress.step, "largest_difference_of_a_weight": most, "ok": same}
    yield {"validation_errors": str(errors[0]), "resumed": str(errors[1]), "ok": errors[0] == errors[1]}
    yield {
        "summary": f"stopped after step {at}, resumed: {'the same bits' if same else f'weights differ by {most:.1e}'}"
    }
