"""Asynchronous successive halving: whether a trial goes on beyond a rung."""

import math
from collections.abc import Collection


def goes_on(error: float, errors: Collection[float], reduction: int) -> bool:
    """Return whether a trial is among the best at a rung, one in `reduction` of all that came there so far.

    The first trials at a rung go on, as there is nothing better yet. So no trial ever waits for another.

    Args:
        error: the trial's at the rung.
        errors: of all trials that came to the rung so far, this one included.
        reduction: ratio of the trials before and after a rung.
    """
    if math.isnan(error):
        return False
    better = sum(other < error for other in errors)
    return better < max(1, len(errors) // reduction)
