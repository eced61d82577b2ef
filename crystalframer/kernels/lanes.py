"""SIMD values for Numba: the eight lanes of a value are eight heads of the attention.

Numba has no type for a vector register, and its automatic vectorisation does not find heads that lie side by side. The
types here are LLVM's own vectors: `Heads`, one number for each of eight heads, and `Entries`, `GROUP` such values for
as many neighbours in a row. They are local variables like any other, with + − × and the functions below.

Sums are added in the order in which the code says so, whatever the processor and the size of its registers: nothing
here may be reassociated, only contracted (a·b + c in one rounding where the hardware has it).
"""

import operator
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.extending import intrinsic, lower_builtin, models, register_model
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

LANES = 8
"""Heads in a value."""
_CONTRACT = ("contract",)
_I32 = ir.IntType(32)


def _group_size() -> int:
    """Return how many neighbours are worked on at a time: as many as three values of each fit into the registers."""
    features = config.CPU_FEATURES  # type: ignore[attr-defined]
    if features is None and config.CPU_NAME is None:  # type: ignore[attr-defined]
        return 8 if llvmlite.binding.get_host_cpu_features().get("avx512vl") else 4
    return 8 if "+avx512vl" in (features or "") else 4


GROUP = _group_size()
"""Neighbours in a value of type `Entries`: 8 where there are 32 vector registers of 256 bits, else 4."""


class Heads(types.Type):
    """One number for each of eight heads, of 32 or 64 bits."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(f"Heads({bits})")

    @property
    def llvm(self) -> Any:
        """LLVM's type."""
        return ir.VectorType(ir.FloatType() if self.bits == 32 else ir.DoubleType(), LANES)


class Entries(types.Type):
    """`GROUP` values of type `Heads`."""

    def __init__(self) -> None:
        super().__init__("Entries")

    llvm = ir.ArrayType(ir.VectorType(ir.FloatType(), LANES), GROUP)


HEADS, WIDE, ENTRIES = Heads(32), Heads(64), Entries()


@register_model(Heads)
class _HeadsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, kind.llvm)


@register_model(Entries)
class _EntriesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, kind.llvm)


def _each(builder: Any, emit: Callable[..., Any], *groups: Any) -> Any:
    """Apply an operation to corresponding members of groups."""
    result = ir.Constant(ENTRIES.llvm, ir.Undefined)
    for number in range(GROUP):
        value = emit(builder, *(builder.extract_value(group, number) for group in groups))
        result = builder.insert_value(result, value, number)
    return result


def _operator(symbol: Any, emit: Callable[..., Any]) -> None:
    """Let + − × and / work on two values of the same type."""

    @infer_global(symbol)
    class _Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Heads | Entries) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(symbol, Heads, Heads)
    def _heads(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *args)

    @lower_builtin(symbol, Entries, Entries)
    def _entries(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _each(builder, emit, *args)


def _add(builder: Any, a: Any, b: Any) -> Any:
    return builder.fadd(a, b, flags=_CONTRACT)


def _sub(builder: Any, a: Any, b: Any) -> Any:
    return builder.fsub(a, b, flags=_CONTRACT)


def _mul(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b, flags=_CONTRACT)


_operator(operator.add, _add)
_operator(operator.sub, _sub)
_operator(operator.mul, _mul)
_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))


def _constant(number: float, kind: Heads = HEADS) -> Any:
    return ir.Constant(kind.llvm, [number] * LANES)


def _whole(number: int) -> Any:
    return ir.Constant(ir.VectorType(_I32, LANES), [number] * LANES)


def _shuffle(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(places)), places))


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any, llvm: Any) -> Any:
    """Return a pointer to the element `index` of a contiguous array, as one to a vector."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(llvm))


def _filled(builder: Any, number: Any, llvm: Any) -> Any:
    one = builder.insert_element(ir.Constant(llvm, ir.Undefined), number, ir.Constant(_I32, 0))
    return _shuffle(builder, one, ir.Constant(llvm, ir.Undefined), [0] * LANES)


def _of_kernels(generator: Callable[..., Any]) -> Any:
    """Make a function for compiled code out of one that types it and writes its LLVM instructions."""
    return intrinsic(generator)


@_of_kernels
def load(typingctx, array, index):
    """Return array[index : index + 8] of a contiguous array of float32 or float64."""
    kind = WIDE if array.dtype == types.float64 else HEADS

    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], args[0], args[1], kind.llvm)
        return builder.load(place, align=kind.bits // 8)

    return kind(array, types.intp), generate


@_of_kernels
def store(typingctx, array, index, value):
    """Write a value to array[index : index + 8] of a contiguous array."""

    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], args[0], args[1], value.llvm)
        builder.store(args[2], place, align=value.bits // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@_of_kernels
def fill(typingctx, number):
    """Return the same float32 or float64 for all heads."""
    kind = WIDE if number == types.float64 else HEADS

    def generate(context, builder, sig, args):
        return _filled(builder, args[0], kind.llvm)

    return kind(number), generate


@_of_kernels
def widen(typingctx, a):
    """Return the value in 64 bits."""

    def generate(context, builder, sig, args):
        return builder.fpext(args[0], WIDE.llvm)

    return WIDE(HEADS), generate


@_of_kernels
def larger(typingctx, a, b):
    """Return a where a > b, else b."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return HEADS(HEADS, HEADS), generate


@_of_kernels
def absolute(typingctx, a):
    """Return |a|."""

    def generate(context, builder, sig, args):
        bits = builder.bitcast(args[0], ir.VectorType(_I32, LANES))
        return builder.bitcast(builder.and_(bits, _whole(0x7FFFFFFF)), HEADS.llvm)

    return HEADS(HEADS), generate


@_of_kernels
def square_root(typingctx, a):
    """Return √a."""

    def generate(context, builder, sig, args):
        kind = ir.FunctionType(HEADS.llvm, [HEADS.llvm])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f32"), args)

    return HEADS(HEADS), generate


@_of_kernels
def at_least(typingctx, a, b):
    """Return a number whose bit h says whether a ≥ b for head h; never for NaN."""

    def generate(context, builder, sig, args):
        mask = builder.bitcast(builder.fcmp_ordered(">=", args[0], args[1]), ir.IntType(LANES))
        return builder.zext(mask, ir.IntType(64))

    return types.int64(HEADS, HEADS), generate


@_of_kernels
def where_greater(typingctx, a, b, then, otherwise):
    """Return `then` where a > b, else `otherwise`."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return HEADS(HEADS, HEADS, HEADS, HEADS), generate


_LOWEST, _LOG2_E, _TO_WHOLE = -87.0, 1.4426950216293335, 12582912.0
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_POLYNOMIAL = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5,
)  # fmt: skip


@_of_kernels
def exponential(typingctx, x):
    """Return exp(x) of x ≤ 0 to two units in the last place; below −87 it is exp(−87), 1.6e-38.

    Range reduction by ln 2 in two parts and a polynomial of degree 7 (Cephes' expf coefficients).
    """

    def generate(context, builder, sig, args):
        low = _constant(_LOWEST)
        x = builder.select(builder.fcmp_ordered("<", args[0], low), low, args[0])
        shifted = builder.fadd(builder.fmul(x, _constant(_LOG2_E)), _constant(_TO_WHOLE))  # rounds to a whole number
        whole = builder.fsub(shifted, _constant(_TO_WHOLE))
        f = _sub(builder, x, _mul(builder, whole, _constant(_LN2_HIGH)))
        f = _sub(builder, f, _mul(builder, whole, _constant(_LN2_LOW)))
        sum_ = _constant(_POLYNOMIAL[0])
        for coefficient in _POLYNOMIAL[1:]:
            sum_ = _add(builder, _mul(builder, sum_, f), _constant(coefficient))
        sum_ = _add(builder, _add(builder, _mul(builder, _mul(builder, sum_, f), f), f), _constant(1.0))
        exponent = builder.add(builder.bitcast(shifted, ir.VectorType(_I32, LANES)), _whole(127))
        return _mul(builder, sum_, builder.bitcast(builder.shl(exponent, _whole(23)), HEADS.llvm))

    return HEADS(HEADS), generate


@_of_kernels
def repeat(typingctx, a):
    """Return the same value for all entries of a group."""

    def generate(context, builder, sig, args):
        result = ir.Constant(ENTRIES.llvm, ir.Undefined)
        for number in range(GROUP):
            result = builder.insert_value(result, args[0], number)
        return result

    return ENTRIES(HEADS), generate


@_of_kernels
def load_entries(typingctx, array, index):
    """Return array[index + 8g : index + 8g + 8] of a contiguous array of float32 for each entry g."""

    def generate(context, builder, sig, args):
        result = ir.Constant(ENTRIES.llvm, ir.Undefined)
        for number in range(GROUP):
            index = builder.add(args[1], ir.Constant(args[1].type, LANES * number))
            place = _place(context, builder, sig.args[0], args[0], index, HEADS.llvm)
            result = builder.insert_value(result, builder.load(place, align=4), number)
        return result

    return ENTRIES(array, types.intp), generate


@_of_kernels
def add_entries(typingctx, array, index, group):
    """Add a group to array[index : index + 8·GROUP] of a contiguous array of float32."""

    def generate(context, builder, sig, args):
        for number in range(GROUP):
            index = builder.add(args[1], ir.Constant(args[1].type, LANES * number))
            place = _place(context, builder, sig.args[0], args[0], index, HEADS.llvm)
            value = _add(builder, builder.load(place, align=4), builder.extract_value(args[2], number))
            builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, ENTRIES), generate


@_of_kernels
def fill_entries(typingctx, array, index):
    """Return array[index + g] for all heads of each entry g."""

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        result = ir.Constant(ENTRIES.llvm, ir.Undefined)
        for number in range(GROUP):
            index = builder.add(args[1], ir.Constant(args[1].type, number))
            value = _filled(builder, builder.load(builder.gep(data, [index])), HEADS.llvm)
            result = builder.insert_value(result, value, number)
        return result

    return ENTRIES(array, types.intp), generate


@_of_kernels
def plus_entries(typingctx, total, group):
    """Return total + Σ of the group's entries, four at a time: the same sum with groups of 4 and of 8."""

    def generate(context, builder, sig, args):
        total = args[0]
        for start in range(0, GROUP, 4):
            a, b, c, d = (builder.extract_value(args[1], start + number) for number in range(4))
            total = _add(builder, total, _add(builder, _add(builder, a, b), _add(builder, c, d)))
        return total

    return HEADS(HEADS, ENTRIES), generate


_PAIRS = ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15])
_FOURS = ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
_HALVES = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])


@_of_kernels
def transpose(typingctx, source, start, stride, target, to, to_stride):
    """Write target[to + r·to_stride + c] = source[start + c·stride + r] for r, c < 8; contiguous arrays of float32."""

    def generate(context, builder, sig, args):
        def row(number, kind, array, start, stride):
            index = builder.add(start, builder.mul(stride, ir.Constant(stride.type, number)))
            return _place(context, builder, kind, array, index, HEADS.llvm)

        rows = [builder.load(row(number, sig.args[0], *args[:3]), align=4) for number in range(LANES)]
        pairs = [_shuffle(builder, rows[k], rows[k + 1], places) for k in range(0, LANES, 2) for places in _PAIRS]
        fours = [_shuffle(builder, pairs[k], pairs[k + 2], places) for k in (0, 1, 4, 5) for places in _FOURS]
        for half, places in enumerate(_HALVES):
            for number in range(4):
                value = _shuffle(builder, fours[number], fours[number + 4], places)
                builder.store(value, row(4 * half + number, sig.args[3], *args[3:]), align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate
