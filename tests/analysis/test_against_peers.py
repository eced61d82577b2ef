"""Ours against peers: known differences come out with the right sign, and files of others are read or named."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from analysis import against_peers
from analysis.items import Context
from analysis.peers import read_peer
from analysis.results import read_sweep
from crystalframer.errors import UserError
from tests.analysis.conftest import SWEEP, Store

GAPS = {"data.task": "bandgap"}
DEVELOPMENT = Path(__file__).parents[2].parent / "shared" / "data" / "jarvis_peer_predictions.npz"


@pytest.fixture
def gaps(store: Store) -> dict[str, float]:
    """True gaps of 120 crystals, a third of them metals, and a row of two seeds that errs by 0.2 either way."""
    random = np.random.default_rng(0)
    truth = {f"m{n:03}": 0.0 if n < 40 else float(random.uniform(0.5, 6)) for n in range(120)}
    for seed, sign in ((0, 1), (1, -1)):
        predictions = {id: (gap, gap + sign * 0.2) for id, gap in truth.items()}
        store.add("max", seed, test_mae=0.2, unit="eV", settings=GAPS, predictions=predictions)
    return truth


def write(path: Path, rows: dict[str, float], extra: dict[str, float] | None = None) -> Path:
    """Write a table of predictions, with targets if there are any."""
    lines = [f"{id},{extra[id]},{value}" if extra else f"{id},{value}" for id, value in rows.items()]
    path.write_text("\n".join(["id,target,prediction" if extra else "id,prediction", *lines, ""]))
    return path


def run(store: Store, output: Path, *peers: str) -> list[dict[str, str]]:
    """Run the program; return the records."""
    arguments = ["--sweep", SWEEP, "--runs", str(store.runs), "--output", str(output), "--peers", *peers]
    assert against_peers.main(arguments) == 0
    return list(csv.DictReader((output / SWEEP / "against_peers.csv").read_text().splitlines()))


def test_rows_and_their_ensembles_meet_every_peer(store: Store, gaps: dict[str, float], tmp_path: Path) -> None:
    better = write(tmp_path / "better.csv", {id: gap + 0.1 for id, gap in gaps.items()})
    worse = write(tmp_path / "worse.csv", {id: gap + 0.3 for id, gap in list(gaps.items())[:100]}, gaps)
    found = {(row["ours"], row["peer"]): row for row in run(store, tmp_path, str(better), f"W={worse}")}
    assert set(found) == {(ours, peer) for ours in ("max", "max, ensemble of 2 seeds") for peer in ("better", "W")}
    first = found["max", "better"]
    assert float(first["difference"]) == pytest.approx(0.1)
    assert (first["materials"], first["verdict"], first["better_on"]) == ("120", "worse", "0.0")
    second = found["max", "W"]
    assert float(second["difference"]) == pytest.approx(-0.1)
    assert (second["materials"], second["verdict"]) == ("100", "better")
    ensemble = found["max, ensemble of 2 seeds", "better"]
    assert float(ensemble["our_mae"]) == pytest.approx(0, abs=1e-9)  # the seeds' errors cancel
    assert ensemble["verdict"] == "better"
    assert all(float(row["p_holm"]) >= float(row["p_bootstrap"]) for row in found.values())


def test_no_difference_is_called_one(store: Store, gaps: dict[str, float], tmp_path: Path) -> None:
    errors = dict(zip(gaps, [0.1, 0.3] * 60, strict=True))  # as large as ours on average
    same = write(tmp_path / "same.csv", {id: gap + errors[id] for id, gap in gaps.items()})
    (row, _) = run(store, tmp_path, str(same))
    assert float(row["low"]) < 0 < float(row["high"])
    assert row["verdict"] == "may be chance"


def test_metals_and_insulators_are_told_apart(store: Store, gaps: dict[str, float], tmp_path: Path) -> None:
    peer = write(tmp_path / "peer.csv", {id: gap + (0.5 if gap == 0 else 0.01) for id, gap in gaps.items()})
    run(store, tmp_path, str(peer))
    text = (tmp_path / SWEEP / "against_peers.md").read_text()
    assert "| max | 0.2000 | +0.0267 (" in text  # at a glance
    assert "In bold what is certain: 1 of 2 differences." in text
    assert "| metals (gap 0) | 40 | −0.5000 |" in text  # of the ensemble, the best row
    assert "| insulators | 80 | −0.0100 |" in text


def test_a_leaderboards_zip_is_called_as_its_folder(gaps: dict[str, float], tmp_path: Path) -> None:
    folder = tmp_path / "coGN"
    folder.mkdir()
    name = "AI-SinglePropertyPrediction-mbj_bandgap-dft_3d-test-mae.csv"
    write(folder / name, gaps, gaps)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        archive.write(folder / name, name)
    peer = read_peer(str(folder / f"{name}.zip"))
    assert peer.name == "coGN"
    assert dict(peer.predictions) == pytest.approx(gaps)
    assert read_peer(f"other={folder / name}.zip").name == "other"


def test_files_that_do_not_fit_are_one_sentence(store: Store, gaps: dict[str, float], tmp_path: Path) -> None:
    cases = {
        "absent.csv": (None, "absent.csv does not exist: check its name"),
        "columns.csv": ("name,gap\na,1\n", "got the columns name, gap, expected id and prediction"),
        "strangers.csv": ("id,prediction\nx,1\n", "predicts none of the 120 test crystals, such as 'm000'"),
        "unit.csv": (
            "\n".join(["id,target,prediction", *(f"{id},{1000 * gap},{gap}" for id, gap in gaps.items())]),
            "targets that differ from ours by up to",
        ),
    }
    for name, (text, message) in cases.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message):
            against_peers.build(_context(store, tmp_path), [read_peer(str(tmp_path / name))])


def _context(store: Store, folder: Path) -> Context:
    return Context(read_sweep(store.tracking_uri, SWEEP, store.runs), SWEEP, folder)


@pytest.mark.skipif(not DEVELOPMENT.is_file(), reason="the development data (../shared) are not beside this checkout")
def test_published_peers_have_their_published_errors(tmp_path: Path) -> None:
    with np.load(DEVELOPMENT) as file:
        ids, target = file["bandgap_mbj.ids"].tolist(), file["bandgap_mbj.target"]
        found = {name: file[f"bandgap_mbj.{name}"] for name in ("coGN", "PotNet", "ALIGNN")}
    for name, mae in {"coGN": 0.264, "PotNet": 0.271, "ALIGNN": 0.310}.items():
        path = write(tmp_path / f"{name}.csv", dict(zip(ids, found[name].tolist(), strict=True)))
        peer = read_peer(str(path))
        assert float(np.abs(peer.predictions.loc[ids].to_numpy() - target).mean()) == pytest.approx(mae, abs=0.002)
