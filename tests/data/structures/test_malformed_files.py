"""Two hundred damaged files: each ends as a reject with its reason, or is still a valid crystal; none crashes."""

import json
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crystalframer.data import registry, store
from crystalframer.data.dataset import CrystalDataset
from crystalframer.data.preparation.sanity import MIN_SEPARATION
from crystalframer.data.preparation.user_data import OwnData, prepare_own
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal, close_pair
from tests.fixtures.own_data import alignn_folder, cif, energy, poscar, rejects_of, small_crystals, structure

CRYSTALS = small_crystals(50, max_atoms=12)
Damage = Callable[[bytes, random.Random], bytes]


def truncated(data: bytes, source: random.Random) -> bytes:
    return data[: source.randrange(len(data))]


def flipped(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randint(1, 8)):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def with_number(text: str) -> Damage:
    def damage(data: bytes, source: random.Random) -> bytes:
        places = list(re.finditer(rb"-?\d+\.\d+", data))
        if not places:
            return data[:-1]
        place = source.choice(places)
        return data[: place.start()] + text.encode() + data[place.end() :]

    return damage


def without_lines(data: bytes, source: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    for _ in range(source.randint(1, 3)):
        del lines[source.randrange(len(lines))]
        if not lines:
            break
    return b"".join(lines)


def with_a_line_twice(data: bytes, source: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    place = source.randrange(len(lines))
    return b"".join([*lines[:place], lines[place], *lines[place:]])


def with_wrong_counts(data: bytes, source: random.Random) -> bytes:
    places = list(re.finditer(rb"(?<![\d.])\d+(?![\d.])", data))
    if not places:
        return data[::-1]
    place = source.choice(places)
    return (
        data[: place.start()] + str(int(place.group()) + source.choice([-1, 1, 10**9])).encode() + data[place.end() :]
    )


def without_characters(data: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(data))
    return data[:start] + data[start + source.randint(1, 40) :]


def binary(data: bytes, source: random.Random) -> bytes:
    return source.randbytes(len(data))


def empty(data: bytes, source: random.Random) -> bytes:
    return source.choice([b"", b"\n\n", b" "])


DAMAGES: list[Damage] = [
    truncated,
    truncated,
    flipped,
    flipped,
    with_number("nan"),
    with_number("inf"),
    with_number("1e308"),
    with_number("-1" + "0" * 400),
    without_lines,
    with_a_line_twice,
    with_wrong_counts,
    without_characters,
    binary,
    empty,
]
NUM_EACH = 50


def pymatgen_json(crystal: Crystal) -> str:
    return json.dumps(structure(crystal), indent=1)


WRITERS: dict[str, Callable[[Crystal], str]] = {".cif": cif, ".vasp": poscar, ".json": pymatgen_json}


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def damaged(text: str, number: int) -> bytes:
    return DAMAGES[number % len(DAMAGES)](text.encode(), random.Random(number))


def assert_sound(dataset: CrystalDataset) -> None:
    """Check that every crystal can exist and every target is a number or absent."""
    for row in range(len(dataset)):
        crystal = dataset[row]
        assert np.isfinite(crystal.lattice).all()
        assert np.isfinite(crystal.frac_coords).all()
        assert crystal.volume > 1
        assert close_pair(crystal.lattice, crystal.frac_coords, MIN_SEPARATION) is None
    for task in dataset.tasks.values():
        assert (np.isnan(task.targets) | (np.abs(task.targets) < 1e15)).all()


@pytest.mark.parametrize("suffix", WRITERS)
def test_damaged_structure_files(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    write = WRITERS[suffix]
    rows = ["sound,1.0"]
    (folder / f"sound{suffix}").write_text(write(small_crystals(51, max_atoms=12)[50]))
    for number, crystal in enumerate(CRYSTALS[:NUM_EACH]):
        (folder / f"d{number}{suffix}").write_bytes(damaged(write(crystal), number))
        rows.append(f"d{number},{number}")
    (folder / "id_prop.csv").write_text("\n".join(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        directory, manifest = prepare_own(OwnData(folder))
    dataset, rejects = store.read_store(directory), rejects_of(directory)
    kept = set(dataset.ids.tolist())
    assert "sound" in kept
    expected = {f"d{number}" for number in range(NUM_EACH)}
    left = {re.sub(r"#\d+$", "", id) for id in rejects}
    assert expected <= kept | left
    assert all(reason and "\n" not in reason for reason in rejects.values())
    assert len(rejects) == manifest["rejects"]
    assert_sound(dataset)
    targets = dict(zip(dataset.ids.tolist(), dataset.tasks["target"].targets.tolist(), strict=True))
    assert all(targets[id] == float(id[1:]) for id in kept - {"sound"})
    assert len(expected & left) > 0.6 * NUM_EACH


def test_damaged_tables(tmp_path: Path, data_directory: Path) -> None:
    crystals = CRYSTALS[:6]
    ids = {crystal.id for crystal in crystals}
    true = {crystal.id: energy(crystal) for crystal in crystals}
    folder = alignn_folder(tmp_path / "mine", crystals)
    table = (folder / "id_prop.csv").read_text()
    wrong = 0
    for number in range(NUM_EACH):
        (folder / "id_prop.csv").write_bytes(damaged(table, number))
        try:
            directory, _ = prepare_own(OwnData(folder))
        except UserError:
            lines = (data_directory / "mine.rejects.jsonl").read_text().splitlines()
            rejects = {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}
            assert ids <= set(rejects)
            continue
        rejects, dataset = rejects_of(directory), store.read_store(directory)
        assert ids <= set(rejects) | set(dataset.ids.tolist())
        assert all(rejects.values())
        assert_sound(dataset)
        task = dataset.tasks["target"]
        wrong += sum(true[str(id)] != value for id, value in zip(dataset.ids, task.targets, strict=True))
    assert wrong <= 3  # a digit that was changed or cut off is still a number: no reader can tell
    assert registry.own_datasets() == ["mine"]
