"""Compiles every Triton kernel for an H100 or H200 where there is none: ``python -m tests.kernels.triton_compilation``.

Runs the attention forward and backward with every launch replaced by a compilation for sm_90 with that launch's
arguments, and prints registers, shared and local memory per kernel. What the attention returns means nothing.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from crystalframer.config import FrameName, build_trial
from crystalframer.kernels import triton_kernel
from crystalframer.kernels.parity import make_batch, make_inputs, random_crystal

TARGET = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.int32: "i32", torch.int64: "i64"}
OPTIONS = ("num_warps", "num_stages")


def type_of(argument: object) -> str:
    """Return how Triton names an argument's type."""
    if isinstance(argument, torch.Tensor):
        return "*" + TYPES[argument.dtype]
    return {int: "i32", float: "fp32"}[type(argument)]


def compile_launch(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """Take the place of `JITFunction.run`: compile for `TARGET`, print what the kernel needs, launch nothing."""
    options = {name: kwargs.pop(name) for name in OPTIONS}
    given = dict(zip(self.arg_names, args, strict=False)) | kwargs
    fixed = {p.name: given[p.name] for p in self.params if p.is_constexpr}
    place = {name: (index,) for index, name in enumerate(self.arg_names)}
    source = ASTSource(
        fn=self,
        signature={name: "constexpr" if name in fixed else type_of(given[name]) for name in self.arg_names},
        constexprs={place[name]: value for name, value in fixed.items()},
        attrs={place[name]: [["tt.divisibility", 16]] for name, x in given.items() if isinstance(x, torch.Tensor)},
    )
    kernel = triton.compile(source, target=TARGET, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    spilled = f"{stack + local} bytes of local memory"
    print(self.fn.__name__, f"{registers} registers, {kernel.metadata.shared} bytes shared, {spilled}", flush=True)


def main(frames: tuple[FrameName, ...] = ("none", "max", "static_local", "weighted_pca")) -> None:
    """Compile the kernels of full-size models."""
    JITFunction.run = compile_launch
    triton.knobs.runtime.interpret = True  # only after the kernels are made: lets tensors on the CPU pass
    for frame in frames:
        config = build_trial({"model.frame": frame, "model.cutoff": 4.0}).model
        batch = make_batch([random_crystal(2)], config.cutoff)
        triton_kernel.attend(make_inputs(batch, config), batch, config, tie_seed=1).sum().backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
