"""Look at the machine code of the CPU kernel's inner loops: spills, horizontal operations, width of the vectors.

    python -m benchmarks.machine_code                        # for this processor; compiles, a minute or two
    NUMBA_CPU_NAME=znver3 NUMBA_CPU_FEATURES=+avx2,+fma python -m benchmarks.machine_code    # for another one

An inner loop is a stretch of code that ends with a jump back to its own start and has no other jump. Listed are those
with at least `LEAST` vector operations: the recurrences over Chebyshev terms, dot products, distance windows. What is
kept on the stack within such a loop is a spill; adding across the lanes of a vector is horizontal, and slow. Heads are
the lanes (`kernels/lanes.py`), so nothing should be horizontal, and the dense loops, at least half of whose
instructions are arithmetic, should not spill. The exit code is 1 if a dense loop does either.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEAST = 8
"""Vector operations of a loop worth looking at."""
_LABEL = re.compile(r"^(?P<name>[.\w$]+):")
_JUMP = re.compile(r"^\s+(?:j\w+|b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(?P<to>[.\w$]+)\s*$")
_CALL = re.compile(r"^\s+(?:callq?|bl)\s")
_REGISTER = re.compile(r"%(?P<x86>[xyz]mm)\d+|\b[vq]\d+(?P<arm>\.[24][sd])?\b")
_STACK = re.compile(r"\(%rsp|\[sp\b")
_ARITHMETIC = re.compile(
    r"^\s+(?:v?(?:add|sub|mul|div|max|min)p[sd]|vf(?:n?m)(?:add|sub)\w+p[sd]|f(?:add|sub|mul|ml[as]))\b"
)
_HORIZONTAL = re.compile(r"^\s+(?:v?haddp[sd]|v?dpp[sd]|vextractf\w+|faddp|addv|fmaxnmv)\b")


@dataclass(frozen=True)
class Loop:
    """An inner loop."""

    function: str
    instructions: int
    arithmetic: int
    """Vector operations"""
    width: str
    """Of the widest registers: xmm, ymm or zmm; q on ARM"""
    spills: int
    """Vector instructions that read or write the stack"""
    horizontal: int


def inner_loops(assembly: str, function: str) -> Iterator[Loop]:
    """Yield the inner loops of a function's assembly, x86 in AT&T's syntax or AArch64."""
    name, body = "", list[str]()
    for line in assembly.splitlines():
        if label := _LABEL.match(line):
            name, body = label["name"], []
        elif (jump := _JUMP.match(line)) is not None:
            if jump["to"] == name and body:
                yield _loop(function, body)
            name, body = "", []
        elif _CALL.match(line):
            name, body = "", []
        elif line.startswith(("\t", " ")) and not line.lstrip().startswith((".", "#", "//")):
            body.append(line)


def _loop(function: str, body: Sequence[str]) -> Loop:
    vector = [line for line in body if _REGISTER.search(line)]
    arithmetic = [line for line in vector if _ARITHMETIC.match(line)]
    widths = {found["x86"] or "q" for line in arithmetic for found in _REGISTER.finditer(line)}
    return Loop(
        function,
        len(body) + 1,
        len(arithmetic),
        max(widths, default=""),
        sum(bool(_STACK.search(line)) for line in vector),
        sum(bool(_HORIZONTAL.match(line)) for line in body),
    )


def loops_of_the_kernel() -> list[Loop]:
    """Compile the attention's loops for full-size models, and return their inner loops that do arithmetic.

    Numba's cache must be empty (`NUMBA_CACHE_DIR`): what comes from it has no assembly.
    """
    from crystalframer.config import ModelConfig
    from crystalframer.kernels import cpu, cpu_loops
    from crystalframer.kernels.parity import make_batch, make_inputs, random_crystal

    config = ModelConfig(cutoff=4.0)
    batch = make_batch([random_crystal(2)], config.cutoff)
    cpu.attend(make_inputs(batch, config), batch, config, tie_seed=1).sum().backward()  # type: ignore[no-untyped-call]
    sizes = cpu_loops.Sizes(config.num_heads, config.head_width, config.num_dist, cpu._window(config))
    found = []
    for name, make in (("forward", cpu_loops.forward_loop), ("backward", cpu_loops.backward_loop)):
        (assembly,) = make(sizes).inspect_asm().values()  # type: ignore[attr-defined]
        found += [loop for loop in inner_loops(assembly, name) if loop.arithmetic >= LEAST]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each inner loop; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        from crystalframer.kernels.lanes import GROUP

        loops = loops_of_the_kernel()
    print(f"{GROUP} neighbours at a time")
    print("| pass | instructions | arithmetic | width | spills | horizontal |")
    print("|---|---|---|---|---|---|")
    for loop in loops:
        print(
            f"| {loop.function} | {loop.instructions} | {loop.arithmetic} | {loop.width} | {loop.spills} | "
            f"{loop.horizontal} |"
        )
    dense = [loop for loop in loops if 2 * loop.arithmetic >= loop.instructions]
    bad = sum(loop.spills + loop.horizontal for loop in dense)
    print(f"{len(loops)} inner loops, {len(dense)} of them dense; in these {bad} spills and horizontal operations")
    return int(bad > 0 or not dense)


if __name__ == "__main__":
    sys.exit(main())
