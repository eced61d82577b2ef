"""Peak memory of training steps in a process of its own: ``python -m benchmarks.peak_memory --kernel cpu --size 100``.

Prints one line of JSON: bytes at the peak (`peak`), and how many of them the batch and its steps added (`step`) to
what the program, the model, its optimiser and a step on two atoms had already used. On a CPU that is the process's
resident set, on a GPU what torch allocated there.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peer_worker import resident_peak
from benchmarks.settings import Settings, model_config
from crystalframer.command_line import reports_user_errors
from crystalframer.config import FrameName, KernelName

if TYPE_CHECKING:
    import torch

STEPS = 2


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit code."""
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peak_memory", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--kernel", default="cpu")
    parser.add_argument("--frame", default="max")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--size", default="8")
    parser.add_argument("--threads", type=int, default=1)
    for name in ("cutoff", "atoms", "device", "dataset"):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args(argv)
    settings = replace(
        defaults,
        cutoff=arguments.cutoff,
        atoms=arguments.atoms,
        device=arguments.device,
        dataset=arguments.dataset,
    )
    print(json.dumps(_measure(settings, arguments)))
    return 0


def peak_memory(
    settings: Settings, kernel: KernelName, frame: FrameName, preset: str, size: str, threads: int
) -> dict[str, int]:
    """Start a process, let it train `STEPS` steps, and return its bytes: `peak` and `step`."""
    case: dict[str, object] = {
        "kernel": kernel,
        "frame": frame,
        "preset": preset,
        "size": size,
        "threads": threads,
        "cutoff": settings.cutoff,
        "atoms": settings.atoms,
        "device": settings.device,
        "dataset": settings.dataset,
    }
    options = [f"--{name}={value}" for name, value in case.items()]
    command = [sys.executable, "-m", "benchmarks.peak_memory", *options]
    root = Path(__file__).absolute().parents[1]
    answer = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, int] = json.loads(answer.stdout)
    return found


def _measure(settings: Settings, case: argparse.Namespace) -> dict[str, int]:
    import torch

    from benchmarks.timing import synchronize, threads
    from benchmarks.workload import Subject, make_workload

    config, device = model_config(settings, case.frame, case.preset), torch.device(settings.device)
    with threads(case.threads):
        small = make_workload(replace(settings, atoms=1), "1")
        subject = Subject(case.kernel, config, small.collate(small.geometries(), device))
        subject.step()
        workload = make_workload(settings, case.size)
        before = _reset_peak(device)
        batch = workload.collate(workload.geometries(), device)
        assert batch.targets is not None
        subject.batch, subject.targets = batch, batch.targets
        for _ in range(STEPS):
            subject.step()
        synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_peak()
    return {"peak": peak, "step": max(0, peak - before)}


def _reset_peak(device: "torch.device") -> int:
    """Return the bytes in use: on a GPU now, with a new peak begun; on a CPU the most so far."""
    import torch

    if device.type != "cuda":
        return resident_peak()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


if __name__ == "__main__":
    sys.exit(main())
