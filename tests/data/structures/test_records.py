"""JARVIS-style sources are read as a stream, and what is wrong with them is said in one sentence."""

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crystalframer.data.preparation.columns import record_number
from crystalframer.data.structures import records
from crystalframer.data.structures.records import decode_records, record_to_crystal, split_records
from crystalframer.errors import UserError

ATOMS: dict[str, Any] = {
    "lattice_mat": [[4.0, 0.0, 1.0], [0.0, 5.0, 0.0], [0.0, 0.5, 6.0]],
    "coords": [[0.0, 0.0, 0.0], [0.5, 0.25, 0.75]],
    "elements": ["Na ", " Cl"],
    "cartesian": False,
}


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file."""
    for chunk in split_records(path):
        yield from decode_records(chunk)


@pytest.mark.parametrize("chunk", [7, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_read_record_by_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(records, "CHUNK", chunk)
    expected = [{"id": f"a,]}}{i}", "atoms": ATOMS, "note": "é\n" * i} for i in range(5)]
    plain, zipped = tmp_path / "x.json", tmp_path / "x.json.zip"
    plain.write_text(json.dumps(expected, indent=indent, ensure_ascii=False), encoding="utf-8")
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain, "inner/x.json")
    assert list(read_records(plain)) == expected
    assert list(read_records(zipped)) == expected
    plain.write_text("[]")
    assert list(read_records(plain)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "begins with '{\"a\": 1}', expected a list"),
        ("", "begins with '', expected a list"),
        ('[{"a": 1}, {"b": ', "record 1 is malformed or cut off"),
        ('[{"a": 1}', "record 1 is malformed or cut off"),
        ('[{"a": 1}, {b: 2}]', "record 1 is malformed or cut off"),
        ('[{"a": 1}, [2]]', "record 1 is list, expected a JSON object"),
    ],
)
def test_text_that_is_no_list_of_records(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        list(read_records(path))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)  # beyond 64 bits, JSON's numbers become floats
    | st.floats(allow_nan=False)
    | st.text(alphabet='ab"\\\\{}[],: é\n', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='k"\\\\]}', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=4), max_size=6),
    st.integers(1, 60),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_any_list_of_objects_is_cut_where_its_records_end(
    tmp_path: Path, content: list[dict[str, Any]], chunk: int, ascii: bool, indent: int | None
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, ensure_ascii=ascii, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "CHUNK", chunk)
        chunks = list(records.split_records(path))
        assert list(read_records(path)) == content
    first = 0
    for entry in chunks:
        assert entry.first == first
        first += len(records.decode_records(entry))


@pytest.mark.parametrize("text", ['[{"a": 1}}', '[{"a": 1}] [', '[{"a": 1}]x', '[{"a": [1}]}]', "[1, 2", '[{"a": "b]'])
def test_unbalanced_text_is_malformed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"malformed or cut off|goes on with|is int, expected"):
        list(read_records(path))


def test_malformed_text_does_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK", 100)
    monkeypatch.setattr(records, "MAX_RECORD", 1000)
    path = tmp_path / "x.json"
    path.write_text("[{bad}," + " " * 10**6 + "]")
    with pytest.raises(UserError, match="record 0 is malformed"):
        list(read_records(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.json does not exist .* give a \.json file"):
        list(read_records(tmp_path / "none.json"))
    (tmp_path / "x.json").write_bytes(b'[{"a": "\xff\xfe"}]')
    with pytest.raises(UserError, match="is not UTF-8 text"):
        list(read_records(tmp_path / "x.json"))
    two = tmp_path / "two.zip"
    with zipfile.ZipFile(two, "w") as archive:
        archive.writestr("a.json", "[]")
        archive.writestr("b.json", "[]")
    with pytest.raises(UserError, match=r"holds 2 \.json files, expected one"):
        list(read_records(two))
    content = json.dumps([{"id": str(i), "x": math.sin(i)} for i in range(5000)])
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(damaged, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", content)
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    damaged.write_bytes(raw)
    with pytest.raises(UserError, match=r"damaged \(|malformed"):
        list(read_records(damaged))


def test_a_record_becomes_a_crystal() -> None:
    crystal = record_to_crystal({"atoms": ATOMS}, "x")
    assert crystal.atomic_numbers.tolist() == [11, 17]
    assert crystal.lattice.tolist() == ATOMS["lattice_mat"]
    assert crystal.frac_coords.tolist() == ATOMS["coords"]
    cartesian = {**ATOMS, "coords": crystal.cart_coords.tolist(), "cartesian": True}
    assert record_to_crystal({"atoms": cartesian}, "x").frac_coords == pytest.approx(np.array(ATOMS["coords"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": ["Na", "Clx"]}, r"'Clx' is not an element \(did you mean 'Cl'"),
        ({"elements": ["Na", ""]}, "'' is not an element"),
        ({"elements": "NaCl"}, "elements is 'NaCl', expected a list"),
        ({"elements": ["Na"]}, r"frac_coords has shape \(2, 3\), expected \(1, 3\)"),
        ({"coords": None}, r"frac_coords has shape \(\)"),
        ({"coords": [[0, 0, 0], [0, 0]]}, "frac_coords is not an array of numbers"),
        ({"coords": [[0, 0, 0], [0, 0]], "cartesian": True}, r"coords is not an array of shape \(2, 3\)"),
        ({"lattice_mat": [[1, 0, 0], [2, 0, 0], [0, 0, 1]], "cartesian": True}, "the cell's volume is 0"),
        ({"coords": [[0, 0, 0], [0, 0, 1]]}, "overlap: 0 Å"),
    ],
)
def test_bad_records_name_their_id(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^crystal 'JVASP-1': .*{message}"):
        record_to_crystal({"atoms": {**ATOMS, **change}}, "JVASP-1")


def test_missing_parts_name_their_id() -> None:
    with pytest.raises(UserError, match=r"^crystal 'x': the record has no 'atoms'"):
        record_to_crystal({"atoms": None}, "x")
    with pytest.raises(UserError, match=r"^crystal 'x': 'atoms' has no lattice_mat and no coords"):
        record_to_crystal({"atoms": {"elements": []}}, "x")


def test_numbers_of_a_record() -> None:
    record = {"a": 1, "b": -2.5, "c": "na", "d": None, "e": math.inf, "f": "3.5", "g": True, "h": [1], "i": "nan"}
    assert [record_number(record, key) for key in "abf"] == [1.0, -2.5, 3.5]
    assert all(math.isnan(record_number(record, key)) for key in "cdeghiz")
