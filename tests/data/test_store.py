"""A store gives back what was written, memory-mapped, and is replaced as a whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pytest

from crystalframer.data import store
from crystalframer.data.dataset import CrystalDataset, Task
from crystalframer.data.store import is_store, read_manifest, read_store, write_store
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal


@pytest.fixture
def dataset() -> CrystalDataset:
    rng = np.random.default_rng(3)
    crystals = [
        Crystal(
            np.diag([4.0, 5.0, 6.0]) + rng.normal(size=(3, 3), scale=0.2),
            (np.arange(n)[:, None] + rng.random((n, 3)) / 3) / n,
            rng.integers(1, 99, n),
            f"Ü-{n}",
        )
        for n in (1, 3, 2, 5, 4)
    ]
    split = np.array([0, 0, 1, 2, -1], dtype=np.int8)
    targets = np.array([0.5, np.nan, -1.25, 3.0, 0.1])
    tasks = [Task("e_hull", "eV", targets, split), Task("bandgap", "eV", -targets, split[::-1].copy())]
    return CrystalDataset.from_crystals("toy", crystals, tasks)


def test_round_trip_is_exact(dataset: CrystalDataset, tmp_path: Path) -> None:
    manifest = write_store(tmp_path / "a" / "toy", dataset, {"source": "x"}, [{"id": "bad", "reason": "why"}])
    again = read_store(tmp_path / "a" / "toy")
    assert again.ids.tolist() == dataset.ids.tolist()
    for name in ("offsets", "lattice", "frac_coords", "atomic_numbers"):
        got, put = getattr(again, name), getattr(dataset, name)
        assert got.dtype == put.dtype, name
        assert np.array_equal(got, put), name
    assert list(again.tasks) == ["e_hull", "bandgap"]
    for key, task in dataset.tasks.items():
        assert again.tasks[key].unit == task.unit
        assert np.array_equal(again.tasks[key].targets, task.targets, equal_nan=True)
        assert np.array_equal(again.tasks[key].split, task.split)
    assert again.fingerprint == dataset.fingerprint == manifest["fingerprint"]
    assert read_manifest(tmp_path / "a" / "toy") == manifest
    assert (manifest["crystals"], manifest["atoms"], manifest["rejects"], manifest["source"]) == (5, 15, 1, "x")
    lines = (tmp_path / "a" / "toy" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": "bad", "reason": "why"}]
    assert again[3].num_atoms == 5


def test_the_stored_fingerprint_is_that_of_the_content(dataset: CrystalDataset, tmp_path: Path) -> None:
    write_store(tmp_path / "toy", dataset, {})
    again = read_store(tmp_path / "toy")
    assert replace(again, stored_fingerprint=None).fingerprint == again.fingerprint


def test_arrays_are_views_of_the_mapped_file(dataset: CrystalDataset, tmp_path: Path) -> None:
    write_store(tmp_path / "toy", dataset, {})
    before = pa.total_allocated_bytes()
    again = read_store(tmp_path / "toy")
    arrays = [again.lattice, again.frac_coords, again.atomic_numbers, again.offsets, again.tasks["e_hull"].targets]
    assert not any(array.flags.owndata or array.flags.writeable for array in arrays)
    assert pa.total_allocated_bytes() == before


def test_other_tools_open_the_table(dataset: CrystalDataset, tmp_path: Path) -> None:
    write_store(tmp_path / "toy", dataset, {})
    frame = pd.read_feather(tmp_path / "toy" / "crystals.arrow")
    assert list(frame.columns[:4]) == ["id", "lattice", "frac_coords", "atomic_numbers"]
    assert frame["id"].tolist() == dataset.ids.tolist()
    assert np.allclose(np.stack(frame["frac_coords"].iloc[1]), dataset[1].frac_coords)


def test_writing_again_replaces_the_store(dataset: CrystalDataset, tmp_path: Path) -> None:
    first = write_store(tmp_path / "toy", dataset, {})
    content = (tmp_path / "toy" / "crystals.arrow").read_bytes()
    assert write_store(tmp_path / "toy", dataset, {}) == first
    assert (tmp_path / "toy" / "crystals.arrow").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_failed_write_leaves_the_old_store(
    dataset: CrystalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "toy", dataset, {})
    with pytest.raises(TypeError):
        write_store(tmp_path / "toy", dataset, {"source": object()})
    with pytest.raises(TypeError):
        write_store(tmp_path / "toy", dataset, {}, [{"id": object()}])  # type: ignore[dict-item]
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    assert read_store(tmp_path / "toy").fingerprint == dataset.fingerprint


def test_what_is_not_a_store_is_left_alone(dataset: CrystalDataset, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "thesis.tex").write_text("precious")
    assert not is_store(tmp_path / "toy")
    with pytest.raises(UserError, match="toy exists and is not a prepared store"):
        write_store(tmp_path / "toy", dataset, {})
    assert (tmp_path / "toy" / "thesis.tex").read_text() == "precious"


def test_damaged_and_foreign_tables(dataset: CrystalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FORMAT", 2)
    write_store(tmp_path / "toy", dataset, {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="has store format 2, this version reads 1: prepare it again"):
        read_store(tmp_path / "toy")
    path = tmp_path / "toy" / "crystals.arrow"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"nonsense", b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is not a prepared store \(.*delete .* and prepare it again"):
            read_store(tmp_path / "toy")
    batch = pa.RecordBatch.from_pydict({"id": ["a"]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(UserError, match="is not a prepared store"):
        read_store(tmp_path / "toy")
