"""Inner loops are found in assembly, and what they spill or add across lanes is counted."""

from benchmarks.machine_code import Loop, inner_loops

X86 = """
\t.text
f:
\tvmovups\t32(%rsp), %ymm3
.LBB0_1:
\tmovl\t$4, %eax
.LBB0_2:
\t# a comment
\tvmovups\t(%rsi,%rax), %ymm1
\tvfmadd231ps\t%ymm1, %ymm2, %ymm0
\tvaddps\t64(%rsp), %ymm0, %ymm4
\tmovl\t8(%rsp), %ecx
\tvhaddps\t%xmm1, %xmm1, %xmm1
\taddq\t$32, %rax
\tcmpq\t%rax, %rcx
\tjne\t.LBB0_2
\tvaddps\t%ymm0, %ymm0, %ymm0
\tjl\t.LBB0_1
.LBB0_3:
\tcallq\texp
\tjne\t.LBB0_3
\tretq
"""
ARM = """
.LBB0_1:
\tldr\tq1, [x1], #16
\tfmla\tv0.4s, v1.4s, v2.4s
\tstr\tq0, [sp, #16]
\tsubs\tx0, x0, #1
\tb.ne\t.LBB0_1
"""


def test_the_inner_loops_of_x86() -> None:
    assert list(inner_loops(X86, "f")) == [Loop("f", 8, arithmetic=2, width="ymm", spills=1, horizontal=1)]


def test_the_inner_loops_of_arm() -> None:
    assert list(inner_loops(ARM, "f")) == [Loop("f", 5, arithmetic=1, width="q", spills=1, horizontal=0)]
