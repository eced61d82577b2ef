"""Prepare a data set once, so that trials can open it in an instant.

    python pipelines/prepare_data.py sample                                       # verify the embedded data set
    python pipelines/prepare_data.py jarvis --source jdft_3d-8-18-2021.json.zip   # about half a minute
    python pipelines/prepare_data.py jarvis                                       # says which file to fetch

A source is a list of JSON records {"atoms": {lattice_mat, coords, elements, cartesian}, "jid": …, targets …},
plain or in a .zip. The published split is regenerated from the order of the records and checked. Records that hold
no valid crystal are left out and listed with the reason in rejects.jsonl; everything else goes into one memory-mapped
Arrow file under $CRYSTALFRAMER_DATA (default ~/.cache/crystalframer). Running it again replaces the store.
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from crystalframer import __version__
from crystalframer.command_line import reports_user_errors
from crystalframer.data import registry, sample, store
from crystalframer.data.crystal import ELEMENTS
from crystalframer.data.dataset import SPLITS, CrystalDataset, DatasetBuilder, Task
from crystalframer.data.official import OFFICIAL, official_split
from crystalframer.data.records import read_records, record_number, record_to_crystal
from crystalframer.errors import UserError


@dataclass
class Records:
    """A source, read record by record: the valid crystals, and one entry a record for everything else."""

    builder: DatasetBuilder = field(default_factory=DatasetBuilder)
    ids: list[str] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    targets: dict[str, list[float]] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)


def read_source(name: str, path: Path) -> Records:
    """Read every record; an id that occurs again gets the suffix ``#2``, ``#3`` and so on.

    Raises:
        UserError: the source cannot be read, or a record has no id.
    """
    official = OFFICIAL[name]
    records = Records(targets={task: [] for task in official.fields})
    seen: Counter[str] = Counter()
    stderr = Console(stderr=True)
    stream = track(
        read_records(path),
        description=f"reading {name}",
        total=official.rows,
        console=stderr,
        disable=not stderr.is_terminal,
    )
    for record in stream:
        original = _id_of(record, official.id_fields)
        if not original:
            raise UserError(
                f"source {path}: record {len(records.ids)} has no id in field {official.id_fields[0]!r} "
                f"(it has: {', '.join(sorted(record)[:8])}): is this the file of data set {name!r}?"
            )
        seen[original] += 1
        id = original if seen[original] == 1 else f"{original}#{seen[original]}"
        records.ids.append(original)
        for task, key in official.fields.items():
            records.targets[task].append(record_number(record, key))
        try:
            crystal = record_to_crystal(record, id)
        except UserError as error:
            records.rejects.append({"id": id, "reason": str(error)})
            records.kept.append(False)
        else:
            records.builder.add(crystal)
            records.kept.append(True)
    return records


def _id_of(record: Mapping[str, Any], fields: Sequence[str]) -> str:
    return next((str(record[key]).strip() for key in fields if isinstance(record.get(key), str | int)), "")


def to_dataset(name: str, records: Records, partial: bool) -> CrystalDataset:
    """Split the records as published, then leave out the rejected ones.

    Raises:
        UserError: the source is not the published file, or holds no valid crystal or no target.
    """
    ids, kept = np.array(records.ids), np.array(records.kept, dtype=bool)
    tasks = []
    for task, values in records.targets.items():
        targets = np.array(values, dtype=np.float64)
        if partial and not np.isfinite(targets).any():
            continue
        split = official_split(name, task, ids, targets, partial=partial)
        tasks.append(Task(task, registry.TASKS[name][task], targets[kept], split[kept]))
    if not tasks:
        raise UserError(f"data set {name!r}: none of the {ids.size} records has a target: is this the right file?")
    return records.builder.finish(name, tasks)


def prepare(name: str, path: Path, partial: bool) -> Path:
    """Read a source, write its store and return the store's folder."""
    records = read_source(name, path)
    dataset = to_dataset(name, records, partial)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {
        "source": {"file": path.name, "bytes": path.stat().st_size, "sha256": digest, "records": len(records.ids)},
        "published_split": not partial,
        "version": __version__,
    }
    directory = registry.data_directory() / name
    store.write_store(directory, dataset, provenance, records.rejects)
    return directory


def summary(dataset: CrystalDataset, rejects: int, where: Path) -> str:
    """Return what a data set holds, a line a task."""
    elements = np.unique(dataset.atomic_numbers)
    lines = [
        f"data set {dataset.name}: {len(dataset):,} crystals, {len(dataset.atomic_numbers):,} atoms "
        f"(at most {dataset.num_atoms.max()} in one), {elements.size} elements up to {ELEMENTS[elements[-1] - 1]}, "
        f"{rejects:,} rejected",
        f"{'task':<18}{'unit':<12}{'targets':>9}" + "".join(f"{part:>9}" for part in SPLITS),
    ]
    for task in dataset.tasks.values():
        finite = np.isfinite(task.targets)
        sizes = [int((finite & (task.split == code)).sum()) for code in range(len(SPLITS))]
        row = "".join(f"{size:>9,}" for size in [int(finite.sum()), *sizes])
        lines.append(f"{task.name:<18}{task.unit:<12}{row}")
    return "\n".join([*lines, f"fingerprint {dataset.fingerprint}", f"stored in {where}"])


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prepare or verify the data set that the command line names, and print what it holds."""
    arguments = _parse(argv)
    name: str = arguments.dataset
    registry.check_dataset(name)
    if name == "sample":
        if arguments.source is not None:
            raise UserError("data set 'sample' is part of the package and has no source: leave out --source")
        print(summary(sample.load_sample(), 0, sample.DIRECTORY))
        return 0
    if arguments.source is None:
        official = OFFICIAL[name]
        raise UserError(
            f"data set {name!r} needs its source: fetch {official.file} (figshare file {official.figshare}, "
            f"{official.url}) and run `python pipelines/prepare_data.py {name} --source FILE`"
        )
    directory = prepare(name, arguments.source, arguments.partial)
    manifest = store.read_manifest(directory)
    print(summary(store.read_store(directory), manifest["rejects"], directory))
    if manifest["rejects"]:
        print(f"the reasons of the {manifest['rejects']:,} rejected records are in {directory / store.REJECTS}")
    if arguments.partial:
        print("not the published split (--partial): results are not comparable with published ones")
    return 0


def _parse(argv: Sequence[str] | None) -> Any:
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="prepare_data.py",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="sample, jarvis, mp or oqmd")
    parser.add_argument("--source", type=Path, metavar="FILE", help="the published .json file, or a .zip that holds it")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="accept a part of the published file and split it by the same rule, 80/10/10; not the published split",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(None))
