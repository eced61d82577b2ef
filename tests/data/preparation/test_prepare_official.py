"""Sources of the published size and order: what is stored is the published split, whole."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalframer.data.dataset import SPLITS
from crystalframer.data.preparation.splits import split_indices
from crystalframer.data.registry import load_dataset
from crystalframer.data.sample import load_sample
from crystalframer.data.store import read_manifest
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.published import PUBLISHED
from pipelines.prepare_data import main
from tests.fixtures.file_server import FileServer, serve
from tests.fixtures.published import ONE_ATOM, moduli, zipped

SHARED = Path(__file__).parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="development data ../shared/data is not there")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    yield tmp_path / "data"
    shutil.rmtree(tmp_path)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as state:
        yield state


def load(name: str) -> dict[str, NDArray[Any]]:
    with np.load(SHARED / name, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.mark.slow
def test_mp_as_published(server: FileServer, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All 69,239 ids and targets in the published order, real crystals for the first thousand at hand, seven files."""
    official, subset, sample = (
        load("mp2018_megnet_targets_official.npz"),
        load("mp2018_megnet_subset.npz"),
        load_sample(),
    )
    atoms = {str(id): row for row, id in enumerate(subset["ids"][:1000])}

    def real(row: int) -> dict[str, Any]:
        own = slice(subset["offsets"][row], subset["offsets"][row + 1])
        return {
            "lattice_mat": subset["lattice"][row].tolist(),
            "coords": subset["frac"][own].tolist(),
            "elements": [ELEMENTS[number - 1] for number in subset["numbers"][own]],
        }

    ids = [str(id) for id in official["ids"]]
    records = [
        {
            "id": id,
            "e_form": float(energy),
            "gap pbe": float(gap),
            "atoms": real(atoms[id]) if id in atoms else ONE_ATOM,
        }
        for id, energy, gap in zip(ids, official["y_e_form"], official["y_bandgap"], strict=True)
    ]
    server.files["/mirror/megnet.json.zip"] = zipped(records, "megnet.json")
    for kind in ("bulk", "shear"):
        for part, count in zip(SPLITS, PUBLISHED["mp"].tasks[f"{kind}_modulus"].counts, strict=True):
            server.files[f"/mirror/{kind}_megnet_{part}.pkl"] = moduli(sample, range(count), kind)
    assert main(["mp", "--source", f"{server.address}/mirror", "--processes", "2"]) == 0
    assert len(server.requests) == 7

    dataset = load_dataset("mp")
    assert dataset.ids[: len(ids)].tolist() == ids
    for task, key in (("formation_energy", "y_e_form"), ("bandgap", "y_bandgap")):
        stored = dataset.tasks[task]
        assert np.array_equal(stored.split[: len(ids)], official["split"].astype(np.int8))
        assert (stored.split[len(ids) :] == -1).all()
        assert np.array_equal(stored.targets[: len(ids)], official[key].astype(np.float64))
    for task in ("bulk_modulus", "shear_modulus"):
        sizes = [int((dataset.tasks[task].split == code).sum()) for code in range(3)]
        assert tuple(sizes) == PUBLISHED["mp"].tasks[task].counts
    row = next(row for row, id in enumerate(ids) if id in atoms)
    assert dataset[row].lattice.tolist() == real(atoms[ids[row]])["lattice_mat"]
    assert read_manifest(data / "mp")["published_split"] is True
    assert [source["source"] for source in read_manifest(data / "mp")["sources"]][:2] == ["megnet", "bulk_train"]
    capsys.readouterr()
    assert main(["mp"]) == 0
    assert "it was prepared already" in capsys.readouterr().out


def test_jarvis_as_published(data: Path, tmp_path: Path) -> None:
    """Rows of one atom whose targets are where the published indices want them."""
    published = load("crystalframer_official_split_indices.npz")
    codes = {}
    for task, suffix in (("formation_energy", ""), ("bandgap_mbj", "-mbj_bandgap"), ("e_hull", "-ehull")):
        codes[task] = np.full(55723, -1, dtype=np.int8)
        for code, part in enumerate(SPLITS):
            codes[task][published[f"jarvis__dft_3d_2021{suffix}__SPLIT__{part}"]] = code
    jarvis = PUBLISHED["jarvis"]
    ids = [f"row-{row}" for row in range(55723)]
    for task, entry in jarvis.tasks.items():
        suffix = {"bandgap_mbj": "-mbj_bandgap", "e_hull": "-ehull"}.get(task, "")
        for split, names in entry.ends.items():
            rows = published[f"jarvis__dft_3d_2021{suffix}__SPLIT__{split}"]
            ids[rows[0]], ids[rows[-1]] = names
    present = {task: with_gap(codes[task], jarvis.tasks[task].counts) for task in ("bandgap_mbj", "e_hull")}
    records = [
        {
            "jid": ids[row],
            "atoms": ONE_ATOM,
            **{
                field: 0.5 if task not in present or present[task][row] else "na"
                for task, field in jarvis.fields.items()
            },
        }
        for row in range(55723)
    ]
    (tmp_path / "jdft_3d-8-18-2021.json").write_text(json.dumps(records))
    assert main(["jarvis", "--source", str(tmp_path), "--processes", "2"]) == 0
    dataset = load_dataset("jarvis")
    for task, expected in codes.items():
        assert np.array_equal(dataset.tasks[task].split, expected), task
    assert np.array_equal(dataset.tasks["total_energy"].split, codes["formation_energy"])


def with_gap(codes: NDArray[np.int8], counts: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return which rows have a target, given the split of all but the row or two that are in none."""
    present = codes >= 0
    for usable in range(sum(counts), sum(counts) + 3):
        indices = split_indices(usable, counts)
        missing = sorted(set(range(usable)) - {int(i) for part in indices.values() for i in part})
        if len(missing) == usable - sum(counts) and (int(usable * 0.8), int(usable * 0.1)) == counts[:2]:
            filled = present.copy()
            for position in missing:  # a row between two present ones, which are the position-th and the one before it
                rows = np.flatnonzero(filled)
                filled[rows[position - 1] + 1 : rows[position]][:1] = True
            again = np.full(codes.size, -1, dtype=np.int8)
            for code, part in enumerate(SPLITS):
                again[np.flatnonzero(filled)[indices[part]]] = code
            if np.array_equal(again, codes):
                return filled
    raise AssertionError("no set of rows leads to the published split")
