"""Where a sweep or search stands, from its folder alone: while it runs and after it died."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from crystalframer.command_line import reports_user_errors
from crystalframer.orchestration.sweeps.arguments import add_runs_argument

DESCRIPTION = """\
Say where a sweep or search stands: trials by state, the best of each frame, rate, time left, cost.

It reads the run directories alone, so it works from any machine that sees them, while the driver runs and after it
died.
"""
RATE_SECONDS = 600.0
"""A trial that has written nothing for so long does not count for the rate."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return _run(_parser().parse_args(argv))


@reports_user_errors
def _run(options: argparse.Namespace) -> int:
    from crystalframer.runs.budget import Account
    from crystalframer.runs.status import Fate, count, read_fates, sentence

    fates, account = read_fates(options.runs / options.name)
    if options.json:
        content = {"account": asdict(account), "alive": account.is_alive(), "trials": [asdict(fate) for fate in fates]}
        print(json.dumps(content, indent=1))
        return 0

    def heading(account: Account, fates: Sequence[Fate]) -> str:
        driver = "running" if account.is_alive() else ("ended" if account.ended else "dead")
        cost = f", cost {account.cost:.2f}" if account.cost_per_hour else ""
        return (
            f"{options.name}: {len(fates)} trials: {count(fates)}\n"
            f"driver {driver} (process {account.pid} on {account.machine}), {account.seconds / 3600:.2f} hours in all, "
            f"{account.trial_seconds / 3600:.2f} hours of trials{cost}"
        )

    print(heading(account, fates))
    if account.over_budget:
        print(account.over_budget)
    if account.is_alive():
        print(_speed(fates))
    best: dict[tuple[str, str], Fate] = {}
    for fate in fates:
        key = (fate.task, fate.frame)
        if fate.val_mae is not None and (key not in best or fate.val_mae < (best[key].val_mae or 0.0)):
            best[key] = fate
    for (task, frame), fate in sorted(best.items()):
        print(f"best of {task}, {frame}: validation MAE {fate.val_mae:.4f} {fate.unit} ({fate.name})")
    for fate in fates:
        if options.all or fate.fate in ("running", "failed", "interrupted"):
            print(f"  {fate.name}: {sentence(fate)}")
    return 0


def _speed(fates: Sequence[object]) -> str:
    """Return the rate of the running trials and the time left."""
    from crystalframer.orchestration.sweeps.screen import duration
    from crystalframer.runs.status import Fate

    known = [fate for fate in fates if isinstance(fate, Fate)]
    recent = [fate for fate in known if fate.fate == "running" and fate.updated > time.time() - RATE_SECONDS]
    rate = sum(1 / fate.seconds_per_epoch for fate in recent if fate.seconds_per_epoch)
    left = sum(fate.epochs - fate.epoch for fate in known if fate.fate in ("running", "interrupted", "not started"))
    if not rate:
        return "no rate yet"
    return f"{rate:.2f} epochs/s, about {duration(left / rate)} left if every trial runs to its last epoch"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the sweep's name, its file's stem")
    add_runs_argument(parser)
    parser.add_argument("--all", action="store_true", help="list every trial, not only those that run or failed")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
