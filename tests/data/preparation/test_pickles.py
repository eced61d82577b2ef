"""Pickles of crystals are read; pickles that would run anything are refused by name."""

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crystalframer.data.preparation.pickles import pickled_records, read_pickle
from crystalframer.errors import UserError

ATOMS: dict[str, Any] = {
    "lattice_mat": [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]],
    "coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
    "elements": ["Na", "Cl"],
    "cartesian": False,
}
RECORDS = [{"id": f"mp-{i}", "atoms": ATOMS, "bulk modulus": 1.5 + i} for i in range(3)]


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_admitted_comes_back_as_it_was(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "floats": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">i4"),
        "text": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
        "objects": np.array(["a", None, 3], dtype=object),
        "empty": np.zeros((0, 3)),
        "flags": np.array([True, False]),
    }
    plain = {"a": [1, 2.5, True, None, "é", b"\x00\xff", 10**30, 1j], "b": ({1, 2}, frozenset("x"), bytearray(b"yz"))}
    numbers = [np.float64(1.5), np.float32(0.25), np.int64(-7), np.bool_(True)]
    got = read_pickle(write(tmp_path / "x.pkl", (arrays, plain, numbers), protocol))
    assert got[1] == plain
    assert [type(number) for number in got[2]] == [type(number) for number in numbers]
    assert got[2] == numbers
    for name, array in arrays.items():
        assert np.array_equal(got[0][name], array), name
        assert got[0][name].dtype == pickle.loads(pickle.dumps(array, protocol=protocol)).dtype, name


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_names_of_numpys_inside_are_known(tmp_path: Path, module: str) -> None:
    content = pickle.dumps(np.arange(4.0), protocol=2)
    path = tmp_path / "x.pkl"
    path.write_bytes(content.replace(b"numpy._core.multiarray", module.encode()))
    assert module.encode() in path.read_bytes()
    assert np.array_equal(read_pickle(path), np.arange(4.0))


@pytest.mark.parametrize(
    "content",
    [
        RECORDS,
        tuple(RECORDS),
        np.array(RECORDS, dtype=object),
        {record["id"]: {key: record[key] for key in ("atoms", "bulk modulus")} for record in RECORDS},
        {key: [record[key] for record in RECORDS] for key in RECORDS[0]},
        {key: {row: record[key] for row, record in enumerate(RECORDS)} for key in RECORDS[0]},
        {
            "id": np.array(["mp-0", "mp-1", "mp-2"]),
            "atoms": [{**ATOMS, "coords": np.array(ATOMS["coords"]), "elements": np.array(["Na", "Cl"])}] * 3,
            "bulk modulus": np.array([1.5, 2.5, 3.5], dtype=np.float32),
        },
    ],
    ids=["list", "tuple", "array", "by id", "columns", "pandas columns", "arrays"],
)
def test_layouts_of_records(tmp_path: Path, content: Any) -> None:
    assert pickled_records(write(tmp_path / "x.pkl", content), ("bulk modulus", "bulk_modulus")) == RECORDS


def test_records_without_id_or_target_and_other_content(tmp_path: Path) -> None:
    got = pickled_records(
        write(tmp_path / "bulk.pkl", [{"atoms": ATOMS, "bulk_modulus": 2}, {"atoms": ATOMS}]), ("b m", "bulk_modulus")
    )
    assert [(record["id"], record["b m"]) for record in got] == [("bulk-0", 2), ("bulk-1", None)]
    for content, message in [
        ([{"id": 3}], "record 0 has no 'atoms'"),
        ("text", "holds a str, expected a list of crystals"),
        ({"atoms": [1, 2], "id": [1]}, "columns differ in length"),
    ]:
        with pytest.raises(UserError, match=message):
            pickled_records(write(tmp_path / "x.pkl", content), ("bulk modulus",))


class Asks:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pickle.dumps(Asks(os.system, "touch pwned")), r"posix\.system"),
        (pickle.dumps(Asks(eval, "open('pwned', 'w')")), r"builtins\.eval"),
        (pickle.dumps(Asks(exec, "open('pwned', 'w')"), protocol=2), r"__builtin__\.exec"),
        (named("builtins", "getattr") + b".", r"builtins\.getattr"),
        (pickle.dumps(Asks(open, "pwned", "w")), r"\.open"),
        (pickle.dumps(Asks(__import__, "os")), r"builtins\.__import__"),
        (pickle.dumps(Asks(np.load, "x.npy")), r"numpy\.load"),
        (pickle.dumps(np.random.default_rng(0)), r"numpy\.random"),
        (pickle.dumps(np.ma.masked_array([1.0], mask=[True])), r"numpy\.ma"),
        (pickle.dumps(pd.DataFrame({"a": [1]})), r"pandas\."),
        (pickle.dumps(collections.OrderedDict(a=1)), r"collections\.OrderedDict"),
        (pickle.dumps(Path("x")), r"pathlib\.(_local\.)?PosixPath"),
        (named("numpy", "f2py.os.system") + b".", r"numpy\.f2py\.os\.system"),
        (named("numpy._core.multiarray", "fromfile") + b".", r"numpy\._core\.multiarray\.fromfile"),
        (named("builtins", "type") + b".", r"builtins\.type"),
        (named("_codecs", "lookup") + b".", r"_codecs\.lookup"),
        (b"\x80\x04\x8c\x04list\x8c\x07__new__\x93.", r"list\.__new__"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0elist.__class__\x93.", r"builtins\.list\.__class__"),
        (b"\x80\x02(ibuiltins\neval\n.", r"builtins\.eval"),
        (b"Pwhatever\n.", "outside of it"),
        (b"\x82\x01.", "not a readable pickle"),
    ],
)
def test_calls_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pkl").write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_pickle(Path("x.pkl"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


def test_admitted_names_cannot_be_turned_against_the_reader(tmp_path: Path) -> None:
    encode = named("_codecs", "encode")
    array = named("numpy", "ndarray")
    contents = [
        encode + b"}(V__doc__\nVx\nub.",  # a state for a function
        encode + b"(N}(V__defaults__\n(tub" + b".",
        array + b"}(Vx\nI1\nub.",  # a state for a class
        named("numpy", "dtype") + b"(V,i4,O\nI00\nI01\ntR.",  # structures
        named("numpy", "dtype") + b"(VV8\ntR.",
        pickle.dumps(np.zeros(2, dtype=[("a", "f8")])),
        array + b"(I1000000000000\ntR(.",
        named("numpy._core.multiarray", "_reconstruct") + b"(" + array + b"(I1000000000000\ntVb\ntR.",
        named("builtins", "bytearray") + b"(I100000000000\ntR.",
        named("builtins", "bytes") + b"(I100000000000\ntR.",
        named("builtins", "list") + b"(I1\ntR.",
        pickle.dumps([1, 2])[:-2],
        b"",
        b"\x80\x09.",
        b"(" * 10_000 + b".",
        b"]" + b"]a" * 5,
        b"r" + struct.pack("<I", 2**31) + b".",
    ]
    for content in contents:
        path = tmp_path / "x.pkl"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable pickle"):
            read_pickle(path)
    assert read_pickle(write(path, b"\xff", protocol=2)) == b"\xff"  # the functions still do what they did


def test_random_damage_is_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    content = pickle.dumps([*RECORDS, np.arange(5.0), np.float64(2)], protocol=4)
    path = tmp_path / "x.pkl"
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(len(damaged), size=3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_pickle(path)
        except UserError:
            refused += 1
    assert refused > 50
