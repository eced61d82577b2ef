"""Time the pieces of training and prediction on one core, beside another version of the program in the same hour.

    python benchmarks/cpu_pieces.py --output pieces.json
    python benchmarks/cpu_pieces.py --against 90cf149 --output pieces.json    # a commit, or another checkout's folder

Each version runs in a process of its own with one thread, and they take turns, round by round, in an order that turns
round every time: a busy machine is busy for both, and the ratio of processor times within a round holds where the times
themselves do not. Crystals are the embedded sample's. Pieces: `prepare` (neighbours and frames), `collate`, `predict`
(forward pass), `step` (forward, backward, clipping, AdamW), `attention` (forward and backward of one block). The JSON
holds every round, versions, commits and the machine's load.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Any

ROOT = Path(__file__).absolute().parents[1]
PIECES = ("prepare", "collate", "predict", "step", "attention")
SECONDS = 0.1
"""A quick piece is repeated within a round for this long."""


def pieces(frame: str, preset: str, cutoff: float, crystals: int) -> dict[str, Callable[[], object]]:
    """Return what is timed, with the program that is imported here: nothing but what every version has."""
    import numpy as np
    import torch

    from crystalframer.config import DataConfig, TrainConfig
    from crystalframer.data.batch import BatchLoader, collate
    from crystalframer.data.registry import load_task
    from crystalframer.kernels import cpu
    from crystalframer.kernels.parity import make_inputs
    from crystalframer.nn.model import CrystalFramer
    from crystalframer.resolving import build_trial
    from crystalframer.training.optimizer import build_optimizer

    torch.set_num_threads(1)
    config = build_trial({"model.frame": frame, "model.preset": preset, "model.cutoff": cutoff}).model
    data = load_task(DataConfig())
    rows = [int(row) for row in data.rows["train"][:crystals]]
    asked = {"frame": frame} if "frame" in inspect.signature(BatchLoader).parameters else {}

    def prepare() -> list[Any]:
        loader = BatchLoader(data, cutoff, **asked)  # type: ignore[arg-type]
        return [loader.geometry(row) for row in rows]

    prepared = prepare()
    targets = np.random.default_rng(0).standard_normal(crystals)
    model = CrystalFramer(config, generator=torch.Generator().manual_seed(0))
    model.calibrate(collate(prepared, cutoff, targets))
    optimizer = build_optimizer(model, TrainConfig())
    wanted = torch.from_numpy(targets).float()[:, None]
    inputs = make_inputs(collate(prepared, cutoff), config)

    def predict() -> None:
        with torch.no_grad():
            model(collate(prepared, cutoff, targets))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (model(collate(prepared, cutoff, targets), tie_seed=1) - wanted).abs().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def attention() -> None:
        cpu.attend(inputs, collate(prepared, cutoff), config, tie_seed=1).sum().backward()  # type: ignore[no-untyped-call]

    return {
        "prepare": prepare,
        "collate": lambda: collate(prepared, cutoff, targets),
        "predict": predict,
        "step": step,
        "attention": attention,
    }


def serve(case: Sequence[str]) -> None:
    """Be one version: for every line that comes in, time each piece and answer with ms of processor time a crystal."""
    frame, preset, cutoff, crystals = case
    calls = pieces(frame, preset, float(cutoff), int(crystals))
    counts = {}
    for name, call in calls.items():
        call()  # compiles
        started = time.process_time()
        call()
        counts[name] = max(1, int(SECONDS / max(1e-6, time.process_time() - started)))
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        found = {}
        for name, call in calls.items():
            started = time.process_time()
            for _ in range(counts[name]):
                call()
            found[name] = 1e3 * (time.process_time() - started) / counts[name] / int(crystals)
        print(json.dumps(found), flush=True)


@contextmanager
def version(tree: Path, case: Sequence[str]) -> Iterator[Callable[[], dict[str, float]]]:
    """Start one version, and yield what makes it time a round."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", *case],
        env={**os.environ, **one_thread, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    asked, answers = process.stdin, process.stdout
    assert asked is not None, "it is a pipe"
    assert answers is not None, "it is a pipe"
    _answer(answers)

    def round_() -> dict[str, float]:
        print("again", file=asked, flush=True)
        return _answer(answers)

    try:
        yield round_
    finally:
        process.kill()
        process.communicate()  # closes the pipes, too


def _answer(answers: IO[str]) -> dict[str, Any]:
    line = answers.readline()
    if not line:
        raise RuntimeError("a version ended before it answered; what it printed says why")
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextmanager
def tree_of(name: str) -> Iterator[Path]:
    """Yield a checkout's folder: one that is there, or a commit's, checked out for the time being."""
    if Path(name).is_dir():
        yield Path(name).absolute()
        return
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", f"{folder}/tree", name], check=True)
        try:
            yield Path(folder) / "tree"
        finally:
            subprocess.run([*git, "remove", "--force", f"{folder}/tree"], check=True)


def compare(rounds: int, against: str | None, case: Sequence[str]) -> dict[str, Any]:
    """Time this version, and another one in turns; return medians, ratios and every round."""
    with ExitStack() as stack:
        trees = {"this": ROOT}
        if against is not None:
            trees["other"] = stack.enter_context(tree_of(against))
        run = {name: stack.enter_context(version(tree, case)) for name, tree in trees.items()}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in run}
        for turn in range(rounds):
            for name in list(run)[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(run[name]())
    medians = {name: {piece: median(one[piece] for one in own) for piece in PIECES} for name, own in found.items()}
    content: dict[str, Any] = {"ms_per_crystal": medians, "rounds": found}
    if against is not None:
        pairs = list(zip(found["other"], found["this"], strict=True))
        content["times_faster"] = {piece: median(a[piece] / b[piece] for a, b in pairs) for piece in PIECES}
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--against", metavar="VERSION", help="a commit, or the folder of another checkout")
    parser.add_argument("--frame", default="max")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--cutoff", type=float, default=7.0, help="Å (default: 7)")
    parser.add_argument("--crystals", type=int, default=32, help="in a batch (default: 32)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    arguments = parser.parse_args(argv)
    if arguments.serve:
        serve(arguments.serve)
        return 0
    sys.path.insert(0, str(ROOT))
    from benchmarks.machine import load, provenance

    case = [arguments.frame, arguments.preset, str(arguments.cutoff), str(arguments.crystals)]
    before = load()
    content = {
        "about": provenance("cpu"), "against": arguments.against, "case": case,
        **compare(arguments.rounds, arguments.against, case), "load": [before, load()],
    }  # fmt: skip
    for piece in PIECES:
        faster = f"  ×{content['times_faster'][piece]:.2f}" if arguments.against else ""
        times = "".join(f"  {name} {own[piece]:8.3f}" for name, own in content["ms_per_crystal"].items())
        print(f"{piece:<10}{times} ms of processor time a crystal{faster}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
