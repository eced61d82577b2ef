"""What a search would run and how long that takes, before it runs."""

from pathlib import Path

from crystalframer.orchestration.search.search_spec import Search
from crystalframer.orchestration.sweeps.estimates import Pace, hours_of, total_of


def describe_search(spec: Search, runs: Path) -> str:
    """Return what a search would run at most, with estimated hours."""
    one = Pace(runs).of(spec.default)
    confirming = spec.confirm.best * len(spec.confirm.seeds)
    number = spec.population.members if spec.method == "pbt" else spec.budget.trials
    lines = [
        f"{spec.name}: {number} trials of at most {one.epochs} epochs, then {confirming} to confirm the best",
        *(f"  {key}: {where.kind} {list(where.corners())}" for key, where in spec.space.items()),
        *([f"  trials may end at epochs {list(spec.early_stopping.rungs(one.epochs))}"] if spec.early_stopping else []),
        f"a trial at the file's base: {hours_of(one)}",
        total_of([one] * (number + confirming), spec.resources),
    ]
    return "\n".join(lines)
