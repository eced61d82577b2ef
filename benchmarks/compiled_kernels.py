"""Compile every Triton kernel for GPUs that are not here, and show what each needs: registers, spills, shared memory.

    python -m benchmarks.compiled_kernels                          # A100 (sm_80), L40 and RTX 40 (sm_89), H100 (sm_90)
    python -m benchmarks.compiled_kernels --targets 90 --output kernels.csv

Runs the attention of full-size models forward and backward with every launch noted instead of made, and compiles what
was noted with the ptxas that Triton brings. What the attention returns meanwhile means nothing.
"""

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from crystalframer.config import FrameName
from crystalframer.kernels import triton_kernel
from crystalframer.kernels.parity import make_batch, make_inputs, random_crystal
from crystalframer.resolving import MODEL_PRESETS, build_trial

TARGETS = (80, 89, 90)
"""Compute capabilities, times ten."""
FRAMES: tuple[FrameName, ...] = ("none", "max", "static_local", "weighted_pca")
"""Frames that launch different kernels; given ones launch those of `none` and the angular ones."""
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.int32: "i32", torch.int64: "i64"}
OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Compiled:
    """What one kernel needs on one kind of GPU."""

    kernel: str
    variant: str
    """Frame and preset of the model that launched it first (later ones launch the same code), and its switches."""
    sm: int
    warps: int
    registers: int
    """Per thread, of 255"""
    local_bytes: int
    """Per thread: spilled registers and whatever else does not fit into them"""
    shared_bytes: int
    """Per block"""


@dataclass(frozen=True)
class Launch:
    """A kernel that was to be launched, and how to compile it."""

    variant: str
    source: ASTSource
    options: dict[str, Any]


def type_of(argument: object) -> str:
    """Return how Triton names an argument's type."""
    if isinstance(argument, torch.Tensor):
        return "*" + TYPES[argument.dtype]
    return {int: "i32", float: "fp32"}[type(argument)]


def noted_launches(presets: Sequence[str]) -> list[Launch]:
    """Return every different launch of the frames in these presets of the model.

    Triton is of no other use in this process afterwards.
    """
    found: dict[str, Launch] = {}
    variant = ""

    def note(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS}
        given = dict(zip(self.arg_names, args, strict=False)) | kwargs
        fixed = {p.name: given[p.name] for p in self.params if p.is_constexpr}
        place = {name: (index,) for index, name in enumerate(self.arg_names)}
        signature = {name: "constexpr" if name in fixed else type_of(given[name]) for name in self.arg_names}
        source = ASTSource(
            fn=self,
            signature=signature,
            constexprs={place[name]: value for name, value in fixed.items()},
            attrs={place[name]: [["tt.divisibility", 16]] for name, x in given.items() if isinstance(x, torch.Tensor)},
        )
        key = repr((self.fn.__name__, signature, fixed, options))
        switches = "".join(f", {name}={value}" for name, value in fixed.items() if isinstance(value, bool))
        found.setdefault(key, Launch(variant + switches, source, options))

    JITFunction.run = note
    triton.knobs.runtime.interpret = True  # only after the kernels are made: lets tensors on the CPU pass
    for frame in FRAMES:
        for preset in presets if frame != "none" else presets[:1]:
            variant = f"{frame}/{preset}"
            config = build_trial({"model.frame": frame, "model.preset": preset, "model.cutoff": 4.0}).model
            batch = make_batch([random_crystal(2)], config.cutoff)
            out = triton_kernel.attend(make_inputs(batch, config), batch, config, tie_seed=1)
            out.sum().backward()  # type: ignore[no-untyped-call]
    return list(found.values())


def compiled(launch: Launch, sm: int) -> Compiled:
    """Compile a launch for a compute capability, and read what it needs from the machine code."""
    kernel = triton.compile(launch.source, target=GPUTarget("cuda", sm, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    name, warps = launch.source.fn.fn.__name__, launch.options["num_warps"]
    return Compiled(name, launch.variant, sm, warps, registers, stack + local, kernel.metadata.shared)


def table(rows: Sequence[Compiled], targets: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a Markdown table: a launch a line, and for each target registers, spills and shared memory.

    Args:
        rows: launch by launch, for each of the targets.
        targets: compute capabilities.
    """
    yield "| kernel | first launched by | warps | " + " | ".join(f"sm_{sm}" for sm in targets) + " |"
    yield "|---" * (3 + len(targets)) + "|"
    for place in range(0, len(rows), len(targets)):
        one = rows[place]
        cells = [
            f"{row.registers} / {row.local_bytes} / {row.shared_bytes}" for row in rows[place : place + len(targets)]
        ]
        yield f"| `{one.kernel}` | {one.variant} | {one.warps} | " + " | ".join(cells) + " |"
    yield ""
    yield "Each cell: registers a thread / bytes of local memory a thread (spills) / bytes of shared memory a block."


def main(argv: Sequence[str] | None = None) -> int:
    """Compile as the command line says, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", type=int, default=list(TARGETS), metavar="SM")
    parser.add_argument("--presets", nargs="+", default=list(MODEL_PRESETS), choices=MODEL_PRESETS)
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="write every number there, too")
    arguments = parser.parse_args(argv)
    launches = noted_launches(arguments.presets)
    rows = [compiled(launch, sm) for launch in launches for sm in arguments.targets]
    for line in table(rows, arguments.targets):
        print(line)
    if arguments.output is not None:
        with arguments.output.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, [item.name for item in fields(Compiled)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
