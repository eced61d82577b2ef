"""Compare CrystalFramer with models that install by pip, and with boosted trees, on one core and the same crystals.

    python -m benchmarks.beside_peers --output DIR                             # CrystalFramer and the trees alone
    python -m benchmarks.beside_peers --output DIR --environment ENV           # beside matgl's and alignn's models
    python -m benchmarks.beside_peers --output DIR --environment ENV --dataset jarvis --minutes 10 --seeds 3

ENV is a folder for a virtual environment of their own, made where it is not there yet (2 GB or more, versions of
`benchmarks/peers_constraints.txt`); CrystalFramer's own environment stays as it is. Two kinds of numbers:

- speed: milliseconds of processor time a crystal for preparing, a training step in batches of 32, and a prediction, in
  rounds in which the models take turns; peak memory; parameters;
- error: on the test crystals after equal processor minutes of training, preparing included.

Every model runs in a process of its own with one thread. What fails is reported, and does not stop the others. A part
that is finished is in DIR/parts and not done again, so a run that is stopped resumes with the same command. DIR gets
`beside_peers.json`, `beside_peers.md` and `beside_peers.png`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import provenance
from benchmarks.peer_report import draw, report
from benchmarks.peer_runs import ENTRANTS, FailedPartError, Parts, Record, Run, make_environment, time_all, train_one
from crystalframer.atomic_files import replace_text
from crystalframer.command_line import reports_user_errors
from crystalframer.config import DataConfig
from crystalframer.data.dataset import SPLITS, TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError, near_matches


def write_crystals(data: TaskData, crystals: int, file: Path) -> None:
    """Write the task's crystals as plain arrays; those to be timed are training crystals, evenly spaced by size.

    Raises:
        UserError: there are several targets, disordered crystals, or fewer training crystals than asked for.
    """
    if data.targets.ndim > 1 or data.dataset.mixture is not None:
        raise UserError("--dataset: got disordered crystals or several tasks, expected ordered ones and one task")
    rows = np.concatenate([data.rows[split] for split in SPLITS])
    own = [data.dataset[int(row)] for row in rows]
    sizes = np.array([crystal.num_atoms for crystal in own])
    count = len(data.rows["train"])
    if count < crystals:
        raise UserError(f"--crystals: got {crystals}, but there are {count} training crystals; give at most as many")
    order = np.argsort(sizes[:count], kind="stable")
    timed = order[((np.arange(crystals) + 0.5) * count / crystals).astype(np.int64)]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        lattice=np.stack([crystal.lattice for crystal in own]),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        numbers=np.concatenate([crystal.atomic_numbers for crystal in own]),
        coords=np.concatenate([crystal.frac_coords for crystal in own]),
        targets=data.targets[rows],
        split=np.repeat(np.arange(len(SPLITS)), [len(data.rows[split]) for split in SPLITS]),
        timed=np.random.default_rng(0).permutation(timed),
    )


def compare(run: Run, arguments: argparse.Namespace, settings: Record) -> Record:
    """Do what is not done yet, and write the results after each part; return them."""
    failed: dict[str, str] = {}
    speed: Record = {}
    errors: list[Record] = []
    labels = {name: entrant.label for name, entrant in ENTRANTS.items()}
    content = {
        "about": provenance("cpu"), "settings": settings, "labels": labels, "speed": speed, "errors": errors,
        "failed": failed,
    }  # fmt: skip

    def write() -> None:
        replace_text(run.folder / "beside_peers.json", json.dumps(content, indent=1) + "\n")
        replace_text(run.folder / "beside_peers.md", report(content))

    names = [name for name in arguments.models if ENTRANTS[name].is_ours or run.peers is not None]
    timed = [name for name in names if ENTRANTS[name].timed]
    if "speed" in arguments.stages:
        parts = Parts(run.folder / "parts", {**settings, "timed": timed, "rounds": arguments.rounds})
        if (kept := parts.get("speed")) is None:
            kept = time_all(run, timed, arguments.rounds, 60 * arguments.speed_minutes)
            if not any("failed" in one for one in kept["models"].values()):
                parts.put("speed", kept)
        speed |= kept
        failed |= {f"speed of {name}": one["failed"] for name, one in kept["models"].items() if "failed" in one}
        write()
    parts = Parts(run.folder / "parts", {**settings, "minutes": arguments.minutes})
    for name in [name for name in names if ENTRANTS[name].trained] if "error" in arguments.stages else []:
        own = arguments.seeds if name == "quick" else arguments.peer_seeds if name != "trees" else 1
        for seed in range(own):
            part = f"error_{name}_{seed}"
            if (kept := parts.get(part)) is None:
                print(f"{ENTRANTS[name].label}, seed {seed}: ", end="", flush=True)
                try:
                    kept = train_one(run, name, arguments.minutes, seed)
                except FailedPartError as error:
                    failed[part] = str(error)
                    print(f"FAILED: {error}", flush=True)
                    write()
                    continue
                parts.put(part, kept)
                print(f"test error {kept['test_mae']:.4f} after {kept['processor_minutes']:.1f} minutes", flush=True)
            errors.append(kept)
            write()
    draw(content, run.folder / "beside_peers.png")
    return content


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the command line says; return the exit code, 1 where a part failed."""
    arguments = _parse(argv)
    for name in arguments.models:
        if name not in ENTRANTS:
            raise UserError(f"--models: unknown name {name!r}{near_matches(name, ENTRANTS)}")
    folder = arguments.output.absolute()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    data = load_task(DataConfig(dataset=arguments.dataset, task=arguments.task, train_size=arguments.train_size))
    write_crystals(data, arguments.crystals, folder / "parts" / "crystals.npz")
    peers: Path | None = None
    trouble: dict[str, str] = {}
    if arguments.environment is not None:
        try:
            peers = make_environment(arguments.environment.absolute(), folder / "logs" / "environment.log")
        except FailedPartError as error:
            trouble["environment"] = str(error)
    settings: Record = {
        "dataset": arguments.dataset, "task": arguments.task, "unit": data.unit, "fingerprint": data.fingerprint,
        "crystals": arguments.crystals, **{split: len(rows) for split, rows in data.rows.items()},
    }  # fmt: skip
    content = compare(Run(folder, peers), arguments, settings)
    failures: dict[str, str] = {**trouble, **content["failed"]}
    for what, why in failures.items():
        print(f"failed: {what}: {why}", file=sys.stderr)
    print(f"written: {folder / 'beside_peers.md'}")
    return int(bool(failures))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beside_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--environment", type=Path, metavar="ENV", help="folder of the peers' environment")
    parser.add_argument("--dataset", default="sample", help="a prepared data set (default: the embedded sample)")
    parser.add_argument("--task", default="formation_energy")
    parser.add_argument("--train-size", type=int, metavar="N", help="training crystals (default: all)")
    parser.add_argument("--models", nargs="+", default=list(ENTRANTS), metavar="NAME", help=f"of {', '.join(ENTRANTS)}")
    parser.add_argument("--stages", nargs="+", default=["speed", "error"], choices=["speed", "error"])
    parser.add_argument("--crystals", type=int, default=64, help="whose handling is timed (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--speed-minutes", type=float, default=60.0, help="after which timing is ended (default: 60)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of one core for a training (default: 10)")
    parser.add_argument("--seeds", type=int, default=3, help="of CrystalFramer's quick model (default: 3)")
    parser.add_argument("--peer-seeds", type=int, default=1, help="of the others (default: 1)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
