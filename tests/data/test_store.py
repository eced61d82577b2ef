"""A store gives back what was written, memory-mapped, and is replaced as a whole or not at all."""

import json
import os
import re
import shutil
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


def test_a_pipe_is_no_table(dataset: CrystalDataset, tmp_path: Path) -> None:
    write_store(tmp_path / "toy", dataset, {})
    path = tmp_path / "toy" / "crystals.arrow"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is not a prepared store"):
        read_store(tmp_path / "toy")


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_flipped_bit_is_noticed(dataset: CrystalDataset, tmp_path: Path) -> None:
    """Of 400 places all over the file, some do not matter; none changes what is read without a word."""
    write_store(tmp_path / "toy", dataset, {"source": "x"})
    path = tmp_path / "toy" / "crystals.arrow"
    content, manifest = path.read_bytes(), read_manifest(tmp_path / "toy")
    read_store(tmp_path / "toy")
    noticed = []
    for bit in np.random.default_rng(0).choice(8 * len(content), 400, replace=False).tolist():
        path.write_bytes(flipped(content, bit))
        try:
            again = read_store(tmp_path / "toy")
        except UserError as error:
            noticed.append(str(error))
        else:
            assert again.content_hash() == dataset.fingerprint, bit
            assert (again.name, read_manifest(tmp_path / "toy")) == ("toy", manifest), bit
    assert all(re.search(r"damaged .* prepare it again|has store format", sentence) for sentence in noticed)
    assert len(noticed) > 200


def test_a_store_is_verified_once(dataset: CrystalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    compute = CrystalDataset.content_hash
    monkeypatch.setattr(CrystalDataset, "content_hash", lambda self: hashed.append(1) or compute(self))  # type: ignore[func-returns-value]
    write_store(tmp_path / "toy", dataset, {})
    hashed.clear()
    read_store(tmp_path / "toy")
    read_store(tmp_path / "toy")
    assert len(hashed) == 1
    (tmp_path / "toy").rename(tmp_path / "moved")
    read_store(tmp_path / "moved")
    assert len(hashed) == 1
    shutil.copytree(tmp_path / "moved", tmp_path / "copied")
    read_store(tmp_path / "copied")
    write_store(tmp_path / "copied", dataset, {})
    hashed.clear()
    read_store(tmp_path / "copied")
    assert len(hashed) == 1
    monkeypatch.undo()
    path = tmp_path / "copied" / "crystals.arrow"
    target = np.float64(-1.25).tobytes()
    path.write_bytes(path.read_bytes().replace(target, np.float64(-1.5).tobytes(), 1))
    with pytest.raises(UserError, match="does not have the fingerprint that it had when it was written"):
        read_store(tmp_path / "copied")


def test_a_store_of_version_0_1_is_verified_too(dataset: CrystalDataset, tmp_path: Path) -> None:
    write_store(tmp_path / "toy", dataset, {})
    path = tmp_path / "toy" / "crystals.arrow"
    with pa.memory_map(str(path), "rb") as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        batch = batch.replace_schema_metadata({"manifest": batch.schema.metadata[b"manifest"]})
        with pa.OSFile(str(tmp_path / "old"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
    plain = (tmp_path / "old").read_bytes()
    path.write_bytes(plain)
    assert read_store(tmp_path / "toy").fingerprint == dataset.fingerprint
    path.write_bytes(plain.replace(np.float64(0.5).tobytes(), np.float64(0.75).tobytes(), 1))
    with pytest.raises(UserError, match="damaged"):
        read_store(tmp_path / "toy")


def test_there_is_a_store_at_every_moment_of_its_replacement(
    dataset: CrystalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every step that changes a name, what a reader finds is the old store or the new one, whole."""
    write_store(tmp_path / "toy", dataset, {"made": "first"})
    seen = []

    def looking(name: str) -> None:
        step = getattr(Path, name)

        def done(*arguments: Path) -> Path:
            result: Path = step(*arguments)
            read_store(tmp_path / "toy")
            seen.append(read_manifest(tmp_path / "toy")["made"])
            return result

        monkeypatch.setattr(Path, name, done)

    looking("rename")
    looking("replace")
    write_store(tmp_path / "toy", dataset, {"made": "second"})
    assert set(seen) == {"first", "second"}
    assert seen == sorted(seen)


def test_a_store_that_was_moved_aside_is_put_back(dataset: CrystalDataset, tmp_path: Path) -> None:
    """Version 0.1, killed between its two renamings, left the only store in a folder that it took for a leftover."""
    write_store(tmp_path / ".toy.tmp-abc" / "toy", dataset, {})
    with store.preparing(tmp_path / "toy"):
        assert read_store(tmp_path / "toy").fingerprint == dataset.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == [".toy.lock", "toy"]
