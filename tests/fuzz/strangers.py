"""What strangers send: pickles, records and tables of crystals, rows to be served, results recorded elsewhere.

Each kind has a function that fills a folder with sound files, and one that reads it as the programs do.
"""

import contextlib
import functools
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import exported
from crystalframer.data.preparation.columns import Layout, chunk_to_columns, records_to_columns
from crystalframer.data.preparation.pickles import pickled_records
from crystalframer.data.preparation.user_sources import read_user_structures
from crystalframer.data.registry import load_task
from crystalframer.data.structures.records import split_records
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.orchestration.search.search_spec import Search
from crystalframer.orchestration.tracking.models import PyfuncModel
from crystalframer.prediction import Predictor
from crystalframer.prediction.loading import predictor_of, read_model
from crystalframer.prediction.packed import Example, PackedModel, as_packed, write_packed
from crystalframer.prediction.served import RowPredictor
from crystalframer.pretrained.packing import calibrate
from crystalframer.resolving import build_trial
from crystalframer.training.metrics import Target
from crystalframer.training.trained_model import TrainedModel
from tests.fixtures.models import SMALL, loud_model
from tests.fuzz.structures import SEEDS

ROOT = Path(__file__).parents[2]
ATOMS: dict[str, Any] = {
    "lattice_mat": [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]],
    "coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
    "elements": ["Na", "Cl"],
    "cartesian": False,
}
PO = Crystal(3.3 * np.eye(3), np.zeros((1, 3)), np.array([84]), "Po")
SERVED = ("rutile", "poscar", "json")
"""Seeds whose texts are served."""


def make_pickle(folder: Path) -> None:
    """Write crystals with a target, as plain records and as columns of arrays."""
    records = [{"id": f"mp-{number}", "atoms": ATOMS, "bulk modulus": 1.5 + number} for number in range(9)]
    atoms = {key: np.array(value) for key, value in ATOMS.items()}
    columns = {"id": np.array(["mp-0", "mp-1"]), "atoms": [atoms] * 2, "bulk modulus": np.array([1.5, 2.5])}
    (folder / "records.pkl").write_bytes(pickle.dumps(records, protocol=4))
    (folder / "columns.pkl").write_bytes(pickle.dumps(columns, protocol=2))


def read_pickles(folder: Path) -> None:
    """Read both to the columns of a store."""
    for path in sorted(folder.iterdir()):
        records = pickled_records(path, ("bulk modulus", "bulk_modulus"))
        records_to_columns(records, Layout(("id",), {"bulk_modulus": "bulk modulus"}), str(path))


def make_records(folder: Path) -> None:
    """Write JARVIS' records, plain and zipped."""
    text = json.dumps([{"jid": f"JVASP-{number}", "atoms": ATOMS, "optb88vdw_bandgap": 0.5} for number in range(9)])
    (folder / "records.json").write_text(text)
    with zipfile.ZipFile(folder / "records.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("records.json", text)


def read_records(folder: Path) -> None:
    """Read both to the columns of a store."""
    for path in sorted(folder.iterdir()):
        for chunk in split_records(path):
            chunk_to_columns(chunk, Layout(("jid",), {"bandgap": "optb88vdw_bandgap"}))


def make_structure_tables(folder: Path) -> None:
    """Write tables with a column of structures."""
    rows = [{"material_id": name, "structure": SEEDS[name].text, "gap": 0.5} for name in SERVED]
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "table.csv", index=False)
    frame.to_parquet(folder / "table.parquet", index=False)


def read_structure_tables(folder: Path) -> None:
    """Read both."""
    for path in sorted(folder.iterdir()):
        for reading in read_user_structures(path, None, 1).readings:
            assert (reading.crystal is None) == bool(reading.reason)


def make_search(folder: Path) -> None:
    """Write the searches that come with the package."""
    for path in sorted((ROOT / "sweeps").glob("hpo*.yaml")):
        shutil.copyfile(path, folder / path.name)


def read_searches(folder: Path) -> None:
    """Read them."""
    for path in sorted(folder.iterdir()):
        Search.load(path)


def make_results(folder: Path) -> None:
    """Write recorded results."""
    shutil.copytree(ROOT / "results" / "ablation_sample", folder / "results")


def read_results(folder: Path) -> object:
    """Read them anew; return all they hold."""
    exported.read.cache_clear()
    content = exported.read(folder / "results")
    exported.check(folder / "results")
    return content.record, *(table.to_json() for table in (content.epochs, content.predictions, content.crystals))


def make_rows(folder: Path) -> None:
    """Write a request: structures with their ids. What answers them is started."""
    _expected()
    rows = [{"structure": SEEDS[name].text, "id": name} for name in SERVED]
    (folder / "request.json").write_text(json.dumps(rows))


def answer_rows(folder: Path) -> None:
    """Answer them: a row each, with a number or the reason why there is none; sound rows as ever."""
    text = (folder / "request.json").read_bytes()
    try:
        table = pd.DataFrame(json.loads(text))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("the server refuses it") from error
    if "structure" not in table:
        raise UserError("MLflow's signature refuses it")
    answer = _model().predict(table)
    assert len(answer) == len(table)
    asked = table["id"].tolist() if "id" in table else []
    for row, (structure, value, reason) in enumerate(
        zip(table["structure"], answer["energy [eV]"], answer["error"], strict=True)
    ):
        assert (value is None) == bool(reason), f"row {row}: {value}, {reason!r}"
        expected = _expected().get(structure) if isinstance(structure, str) else None
        assert expected is None or (value is not None and abs(value - expected) < 1e-4), f"row {row} of {asked}"


def make_packed(folder: Path) -> None:
    """Write a packed model of two members with its intervals and an example."""
    trained = as_packed(_trained())
    data = load_task(build_trial({"data.train_size": 60, "data.val_size": 60, "data.test_size": 4}).data)
    predictor = Predictor([trained, trained])
    with contextlib.redirect_stdout(None):
        calibration = calibrate(predictor, data)
    crystal = next(data.crystals("test"))
    example = Example(crystal, tuple(predictor.predict(crystal).values[0].tolist()))
    write_packed(folder / "packed.pt", PackedModel((trained, trained), calibration, example, {"name": "toy"}))


def read_packed(folder: Path) -> None:
    """Read it, and predict with it."""
    predictor = predictor_of([read_model(folder / "packed.pt")])
    predictor.predict(PO)


@functools.cache
def _model() -> PyfuncModel:
    return PyfuncModel(RowPredictor(Predictor([_trained()])))


@functools.cache
def _trained() -> TrainedModel:
    sizes = {**SMALL, "num_dist": 8, "num_elements": 98, "cutoff": 3.0}
    trial = build_trial({**{f"model.{key}": value for key, value in sizes.items()}, "train.kernel": "reference"})
    network = loud_model(trial.model).eval()
    target = Target("energy", "eV", 0.0, 1.0)
    return TrainedModel(network, trial, (target,), 3, averaged=True, data_fingerprint="f" * 64)


@functools.cache
def _expected() -> dict[str, float]:
    texts = [SEEDS[name].text for name in SERVED]
    return dict(zip(texts, _model().predict(pd.DataFrame({"structure": texts}))["energy [eV]"], strict=True))
