"""Rows of requests: each answered by itself, whatever the others hold and however many requests come at once."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalframer.data.registry import load_dataset
from crystalframer.data.structures.apart import TextReader
from crystalframer.data.structures.formats import ReadLimits
from crystalframer.geometry.crystal import Crystal
from crystalframer.prediction import Predictor
from crystalframer.prediction.served import RowPredictor
from crystalframer.training.trained_model import TrainedModel
from tests.prediction.hostile import GOOD, POSCAR

SLOW = "data_x\n" + "_a b\n" * 1_000_000
"""Text that takes more than half a second to read."""
BAD = {
    "null": (None, "the row has no structure"),
    "nan": (float("nan"), "the row has no structure"),
    "number": (5, "the row has a int as structure"),
    "list": ([1], "the row has a list as structure"),
    "blank": (" \n", "the row's structure is empty"),
    "object": ({"a": 1}, "no 'lattice' and 'sites'"),
    "no text": ("data_\ud800\n" + GOOD, "surrogates not allowed"),
    "big": ("x" * (2**23 + 1), "the text has more than 8388608 characters"),
    "slow": (SLOW, "the text took more than 0.5 s of a processor to read"),
    "deep": ('{"a":' * 100_000, "recursion"),
}
"""Rows that cannot be answered, and what each is told."""


@pytest.fixture(scope="module")
def predictor(trained: TrainedModel) -> Predictor:
    return Predictor([trained])


@pytest.fixture(scope="module")
def rows(predictor: Predictor) -> RowPredictor:
    return RowPredictor(predictor, ReadLimits(max_bytes=2**23, max_seconds=0.5))


@pytest.fixture
def reader() -> Iterator[TextReader]:
    reader = TextReader(ReadLimits())
    yield reader
    reader.close()


def test_each_row_is_answered_for_itself(rows: RowPredictor, predictor: Predictor) -> None:
    structures: list[Any] = [GOOD]
    ids = ["first"]
    for name, (structure, _) in BAD.items():
        structures += [structure, POSCAR]
        ids += [name, f"after {name}"]
    found = rows.predict(structures, ids)
    expected = predictor.predict([GOOD]).values
    assert found.ids == tuple(ids)
    errors = dict(zip(ids, found.errors, strict=True))
    for name, (_, reason) in BAD.items():
        assert reason in errors[name]
    good = [row for row, name in enumerate(ids) if name not in BAD]
    assert {found.errors[row] for row in good} == {""}
    assert np.allclose(found.values[good], expected, atol=1e-4)
    assert np.isnan(found.values[[row for row, name in enumerate(ids) if name in BAD]]).all()


def test_a_text_that_kills_its_process_costs_that_text_alone(reader: TextReader) -> None:
    os.kill(reader._process.pid, signal.SIGKILL)
    killed, after = reader.read([(GOOD, "a"), (GOOD, "b")])
    assert "killed its process" in killed.reason
    assert (after.id, after.reason) == ("b", "")


def test_requests_at_once_do_not_mix(rows: RowPredictor, predictor: Predictor) -> None:
    sample = load_dataset("sample")
    crystals = [sample[row] for row in range(24)]
    expected = predictor.predict(crystals).values

    def answer(part: int) -> NDArray[np.float64]:
        found = rows.predict([_text(crystal) for crystal in crystals[part::6]], ["x"] * 4)
        assert not any(found.errors)
        return found.values

    with ThreadPoolExecutor(6) as threads:
        for part, values in enumerate(threads.map(answer, range(6))):
            assert np.allclose(values, expected[part::6], atol=2e-4)


def _text(crystal: Crystal) -> str:
    return str(crystal.to_structure().to(fmt="poscar"))
