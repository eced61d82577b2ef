"""Asynchronous successive halving: whether a trial goes on beyond a rung, from the errors recorded there so far."""

import math
from collections.abc import Mapping


class SuccessiveHalving:
    """Remembers the errors at each rung; all it remembers can be told to it again after the driver died."""

    def __init__(self, rungs: tuple[int, ...], reduction: int) -> None:
        """Judge at these epochs, letting one trial in `reduction` go on."""
        self._reduction = reduction
        self._errors: dict[int, dict[str, float]] = {rung: {} for rung in rungs}

    def recall(self, name: str, errors: Mapping[int, float]) -> None:
        """Take note of a trial's earlier errors by epoch; no decision follows."""
        for rung, known in self._errors.items():
            if rung in errors:
                known[name] = errors[rung]

    def goes_on(self, name: str, epoch: int, error: float) -> bool:
        """Take note of an error, and return whether the trial goes on.

        It does unless its error is outside the best share of all errors recorded at this rung, its own included; the
        first trials at a rung go on as there is nothing better yet. So no trial ever waits for another.
        """
        if epoch not in self._errors:
            return True
        known = self._errors[epoch]
        known[name] = error
        if math.isnan(error):
            return False
        better = sum(other < error for other in known.values())
        return better < max(1, len(known) // self._reduction)
