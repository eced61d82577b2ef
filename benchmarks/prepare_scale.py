"""How long data sets of published size take to prepare, how much memory that needs, and how fast they are read.

    python -m benchmarks.prepare_scale                          # 55,723 and 817,636 records, some minutes, 3 GB of disk
    python -m benchmarks.prepare_scale --jarvis 2000 --oqmd 20000    # a look

Writes a synthetic source of each size into a temporary folder (about 1.5 GB of JSON for OQMD, zipped as published),
prepares it by ``pipelines/prepare_data.py --partial`` with two processes in addition to the reading one, and prints

- wall and processor time of the preparation, and the peak resident memory of all its processes together;
- the time to open the store in a fresh process;
- crystals per second in batches of 1,024: as arrays, as `Crystal` objects (a part of them), and with neighbour lists
  and static frames as `BatchLoader` makes them the first time and remembers them for the next epochs (two batches);
- the pace of the CPU kernel there and then: training steps on a few batches of these crystals, with the full-size
  model, the lightest way it can be had (frame `none`) and the paper's best (frame `max`, lightweight).

The folder is deleted at the end. On a shared machine the processor time is the figure to trust.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
BATCH = 1024
"""Crystals per batch when reading."""
TRAINED = 96
"""Crystals per training step."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both sizes and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jarvis", type=int, default=55723, help="records; 0 leaves it out")
    parser.add_argument("--oqmd", type=int, default=817636, help="records; 0 leaves it out")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--read", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.read:
        print(json.dumps(measure_reading(arguments.read)))
        return 0
    for name, count in (("jarvis", arguments.jarvis), ("oqmd", arguments.oqmd)):
        if count:
            with tempfile.TemporaryDirectory(prefix="prepare_scale-", dir=arguments.folder) as folder:
                measure(name, count, arguments.processes, Path(folder))
    return 0


def measure(name: str, count: int, processes: int, folder: Path) -> None:
    """Make a source, prepare it, read it, and print what that took."""
    from benchmarks.synthetic_source import write_source

    source = folder / f"{name}.json.zip"
    size = write_source(name, count, source)
    print(f"{name}: {count:,} records, {size / 1e9:.2f} GB of JSON, {source.stat().st_size / 1e9:.2f} GB zipped")
    environment = {**os.environ, "CRYSTALFRAMER_DATA": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "pipelines/prepare_data.py", name, "--partial", "--source", str(source)]
    took = run([*command, "--processes", str(processes)], environment)
    print(f"  prepared in {took['wall']:.1f} s (processor {took['cpu']:.1f} s), at most {took['peak'] / 2**30:.2f} GiB")
    again = run([*command, "--processes", str(processes)], environment)
    print(f"  found unchanged in {again['wall']:.1f} s")
    del environment["OMP_NUM_THREADS"]
    reading = [sys.executable, "-m", "benchmarks.prepare_scale", "--read", name]
    done = subprocess.run(reading, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"  opened in {found['open_s']:.2f} s")
    paces = {key: found[key] for key in ("train_none", "train_max_lightweight")}
    for key in ("arrays", "crystals", "neighbours", "neighbours, again"):
        ratios = ", ".join(f"{found[key] / pace:.1f}× {name}" for name, pace in paces.items())
        print(f"  {key}: {found[key]:,.0f} crystals/s ({ratios})")
    print("  training: " + ", ".join(f"{name} {pace:.1f} crystals/s" for name, pace in paces.items()), flush=True)


def run(command: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command; return its wall time, the processor time and the peak resident memory of all its processes."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    peak = 0
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            break
        peak = max(peak, resident(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    wall = time.perf_counter() - began
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": float(peak)}


def resident(session: int) -> int:
    """Return the resident memory of a session's processes in bytes; pages they share count once for each."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[3]) == session:
            total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


def measure_reading(name: str) -> dict[str, float]:
    """Open a store, iterate it, and train on a few of its crystals."""
    import numpy as np

    from crystalframer.config import DataConfig
    from crystalframer.data.batch import BatchLoader
    from crystalframer.data.dataset import select_task
    from crystalframer.data.registry import load_dataset

    began = time.perf_counter()
    dataset = load_dataset(name)
    found = {"open_s": time.perf_counter() - began}
    order = np.random.default_rng(0).permutation(len(dataset))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def pace(read: Any, some: Sequence[Any]) -> float:
        start = time.perf_counter()
        for rows in some:
            read(rows)
        return sum(len(rows) for rows in some) / (time.perf_counter() - start)

    def arrays(rows: Any) -> Any:
        atoms = np.concatenate([np.arange(dataset.offsets[row], dataset.offsets[row + 1]) for row in rows])
        return dataset.lattice[rows], dataset.frac_coords[atoms], dataset.atomic_numbers[atoms]

    found["arrays"] = pace(arrays, batches)
    found["crystals"] = pace(lambda rows: [dataset[int(row)] for row in rows], batches[:50])
    data = select_task(dataset, DataConfig(dataset=name, task="formation_energy"))
    loader = BatchLoader(data, cutoff=7.0)
    found["neighbours"] = pace(loader.batch, batches[:2])
    found["neighbours, again"] = pace(loader.batch, batches[:2])
    return found | training_paces(loader, order[: 2 * TRAINED])


def training_paces(loader: Any, rows: Any) -> dict[str, float]:
    """Return the crystals per second that the CPU kernel trains, by model."""
    from benchmarks.settings import Settings, model_config
    from benchmarks.workload import Subject

    paces = {}
    batch = loader.batch(rows[:TRAINED])
    for key, frame, preset in (("train_none", "none", "default"), ("train_max_lightweight", "max", "lightweight")):
        subject = Subject("cpu", model_config(Settings(), frame, preset), batch)  # type: ignore[arg-type]
        subject.step()  # compiles
        start = time.perf_counter()
        for _ in range(2):
            subject.step()
        paces[key] = 2 * TRAINED / (time.perf_counter() - start)
    return paces


if __name__ == "__main__":
    sys.exit(main())
