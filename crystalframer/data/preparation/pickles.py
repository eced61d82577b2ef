"""Pickled records, read without running what a pickle may ask for: built-in containers and NumPy arrays only.

Unpickling normally calls whatever the file names. Here every name is looked up in a short table, NumPy's own
constructors are replaced by ones that accept plain numbers and text, and anything else is refused by name.
"""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.errors import UserError

MAX_BYTES = 2**30
"""Largest file that is read."""
_DTYPE = re.compile(r"[<>|=]?([biuf](1|2|4|8)|f16|c(8|16|32)|[SU]\d{1,6}|O8?|b|\?)")
_DAMAGED = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError,
    RecursionError, TypeError, UnicodeError,
)  # fmt: skip


def read_pickle(path: Path) -> Any:
    """Read a pickle of built-in containers, numbers, text and NumPy arrays.

    Raises:
        UserError: the file asks for anything else (the message names it), is damaged or too large.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"source {path} has {path.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}")
    try:
        with path.open("rb") as file:
            return _Unpickler(file, path).load()
    except UserError:
        raise
    except (*_DAMAGED, ValueError) as error:
        raise UserError(f"source {path} is not a readable pickle ({error}): fetch it again") from error


def pickled_records(path: Path, target_fields: Sequence[str]) -> list[dict[str, Any]]:
    """Read a pickle of crystals as records ``{"atoms": {…}, "id": …, TARGET: …}`` of plain Python values.

    A list of records, a table by column (lists, arrays, or dictionaries as pandas makes them) and a dictionary of
    records by id are understood.

    Args:
        path: the pickle.
        target_fields: names of the target, of which the first is used in the result.

    Raises:
        UserError: as `read_pickle`, or the content is none of these.
    """
    records = []
    for position, record in enumerate(_rows(read_pickle(path), path)):
        if not isinstance(record, Mapping) or "atoms" not in record:
            raise UserError(
                f"source {path}: record {position} has no 'atoms', expected crystals as {{'atoms': …, 'id': …}}"
            )
        id = next((record[key] for key in ("id", "jid", "material_id") if key in record), f"{path.stem}-{position}")
        target = next((record[key] for key in target_fields if key in record), None)
        try:
            records.append({"id": _plain(id), "atoms": _plain(record["atoms"]), target_fields[0]: _plain(target)})
        except RecursionError as error:
            raise UserError(
                f"source {path}: record {position} holds itself, or is nested too deep: fetch it again"
            ) from error
    return records


def _rows(content: Any, path: Path) -> list[Any]:
    if isinstance(content, np.ndarray) and content.ndim == 1:
        content = content.tolist()
    if isinstance(content, list | tuple):
        return list(content)
    if isinstance(content, Mapping) and "atoms" in content:
        columns = {key: _column(value) for key, value in content.items()}
        if len({len(column) for column in columns.values()}) == 1:
            return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        raise UserError(f"source {path}: its columns differ in length, expected a table of crystals")
    if isinstance(content, Mapping) and all(isinstance(value, Mapping) for value in content.values()):
        return [{"id": key, **value} for key, value in content.items()]
    raise UserError(f"source {path} holds a {type(content).__name__}, expected a list of crystals")


def _column(values: Any) -> list[Any]:
    if isinstance(values, Mapping):
        return list(values.values())
    return list(values) if isinstance(values, list | tuple | np.ndarray) else []


def _plain(value: Any) -> Any:
    """Return a value without NumPy in it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((_MODULES.get(module, module), name))
        if known is None:
            raise UserError(
                f"source {self._path} asks for {module}.{name}, which is refused: expected built-in containers and "
                "NumPy arrays only; do not open this file with anything else before you know who made it"
            )
        return known

    def persistent_load(self, pid: Any) -> Any:
        raise UserError(f"source {self._path} refers to an object outside of it ({pid!r}), which is refused")


class _Dtype:
    """Stands for `numpy.dtype` while a pickle is read: numbers, text and objects; no structures, no metadata."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
            raise pickle.UnpicklingError(f"array of type {spec!r}")
        self.dtype: np.dtype[Any] = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:
        order, structure = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in structure):
            raise pickle.UnpicklingError("array of structures")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """Stands for `numpy.ndarray` while a pickle is read; filled by its state alone."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        super().__setstate__((1, shape, _real(dtype), bool(fortran), content))  # type: ignore[arg-type]


def _real(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("array without a type")
    return dtype.dtype


class _Call:
    """A function that a pickle may call, but not give a state (which could change the function for good)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("state for a function")


def _reconstruct(subtype: Any, shape: Any, kind: Any) -> _Array:
    if subtype is not _Array or shape != (0,):
        raise pickle.UnpicklingError("array of an unknown kind")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> NDArray[Any]:
    if axes is not None or order not in ("C", "F") or _real(dtype).hasobject:
        raise pickle.UnpicklingError("array of an unknown kind")
    return np.frombuffer(content, dtype=_real(dtype)).reshape(shape, order=order)


def _scalar(dtype: Any, content: Any) -> Any:
    if _real(dtype).hasobject:
        raise pickle.UnpicklingError("number of an unknown kind")
    return np.frombuffer(content, dtype=_real(dtype), count=1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text of an unknown kind")
    return text.encode("latin-1")


def _bytes_as(kind: Callable[[bytes], Any]) -> Callable[..., Any]:
    def make(content: Any = b"", encoding: Any = "latin1") -> Any:
        return kind(content if isinstance(content, bytes) else _encode(content, encoding))

    return make


def _text(value: Any = "") -> str:
    """Return the text that a pickle builds; of a container it could be far longer than the file."""
    if not isinstance(value, str | int | float):
        raise pickle.UnpicklingError(f"text of a {type(value).__name__}")
    return str(value)


_MODULES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}
_KNOWN: dict[tuple[str, str], Any] = {
    **{("builtins", kind.__name__): kind for kind in (bool, complex, dict, float, frozenset, int, list, set, tuple)},
    ("builtins", "str"): _Call(_text),
    ("builtins", "bytes"): _Call(_bytes_as(bytes)),
    ("builtins", "bytearray"): _Call(_bytes_as(bytearray)),
    ("_codecs", "encode"): _Call(_encode),
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Call(_reconstruct),
    ("numpy._core.multiarray", "scalar"): _Call(_scalar),
    ("numpy._core.numeric", "_frombuffer"): _Call(_frombuffer),
}
"""What a pickle may name. `_codecs.encode` is how Python 3 writes bytes in the older protocols."""
