"""Rows of requests: strangers' texts, each read within its limits, predicted one request after the other."""

import threading
from collections.abc import Sequence
from typing import Any

from crystalframer.data.structures.apart import TextReader
from crystalframer.data.structures.formats import ReadLimits
from crystalframer.prediction.predictions import Predictions
from crystalframer.prediction.predictor import Predictor

ROW_LIMITS = ReadLimits(max_bytes=16 * 2**20, max_atoms=20_000, max_seconds=5.0)
"""Of a row; 20,000 atoms take a third of a second to read."""


class RowPredictor:
    """A predictor that a server may call from several threads."""

    def __init__(self, predictor: Predictor, limits: ReadLimits = ROW_LIMITS) -> None:
        """Predict with `predictor` rows within `limits`."""
        self._predictor = predictor
        self._reader = TextReader(limits)
        self._turn = threading.Lock()

    def predict(self, structures: Sequence[Any], ids: Sequence[str]) -> Predictions:
        """Predict structures given as text; a row that holds none, or none within its limits, has its reason."""
        with self._turn:
            readings = self._reader.read(list(zip(structures, ids, strict=True)))
            return self._predictor.predict_named(readings)
