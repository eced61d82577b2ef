"""Prepare a data set once, so that trials can open it in an instant."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED

if TYPE_CHECKING:
    from crystalframer.data.dataset import CrystalDataset

DESCRIPTION = """\
Prepare a data set once, so that trials can open it in an instant.

The published split is regenerated and checked. Records that hold no valid crystal are left out and listed with the
reason in rejects.jsonl; everything else goes into one memory-mapped Arrow file under $CRYSTALFRAMER_DATA (default
~/.cache/crystalframer), downloads into its folder `downloads`. Stop it at any time: the same command resumes with what
has arrived. A store made from the same files in the same way is kept as it is. `crystalframer files data.md`
copies the page that says more.
"""

EPILOG = """\
examples:
  your own crystals, a folder, a file, a table:
    crystalframer prepare my_crystals --unit bandgap=eV
  fetch, verify, split and store JARVIS-DFT 3D 2021, Materials Project 2018, OQMD (817,636 crystals):
    crystalframer prepare jarvis
    crystalframer prepare mp
    crystalframer prepare oqmd --processes 8
  without a network, from files fetched elsewhere; from a mirror:
    crystalframer prepare oqmd --source FOLDER
    crystalframer prepare mp --source https://HOST/FOLDER
  verify the embedded data set:
    crystalframer prepare sample
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer prepare`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("dataset", help=f"one of {', '.join(PUBLISHED)}, or a PATH to your own crystals")
    parser.add_argument(
        "--source",
        metavar="FILE|DIR|URL",
        help="the published file (.json, or a .zip that holds it), a folder of published files, or a mirror's address; "
        "left out: figshare",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="accept a part of the published file and split it by the same rule, 80/10/10; not the published split",
    )
    parser.add_argument("--processes", type=_positive, metavar="N", help="that parse (default: processors, at most 8)")
    parser.add_argument("--force", action="store_true", help="make the store again though nothing changed")
    own = parser.add_argument_group("your own crystals (PATH)")
    own.add_argument("--name", help="name of the data set (default: that of the file or folder)")
    own.add_argument(
        "--targets", type=Path, metavar="FILE", help="table of targets by file or id, .csv or .xlsx (default: found)"
    )
    own.add_argument("--unit", action="append", default=[], metavar="TASK=UNIT", help="unit of a task; may be repeated")
    own.add_argument(
        "--split", default="0", metavar="SEED|FILE", help="seed of the split by formula, or a table `id,split`"
    )
    own.add_argument("--train", type=float, default=0.8, metavar="SHARE", help="of the formulas (default: 0.8)")
    own.add_argument("--val", type=float, default=0.1, metavar="SHARE", help="of the formulas (default: 0.1)")
    own.add_argument("--keep-duplicates", action="store_true", help="keep crystals that repeat an earlier one")
    own.add_argument(
        "--subset-of",
        action="append",
        default=[],
        metavar="[TASK=]DATASET:TASK",
        help="published split that these crystals are a part of, such as jarvis:bandgap_mbj: tables put its published "
        "errors beside; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prepare or verify the data set that the command line names, and print what it holds."""
    from crystalframer.data.registry import check_dataset

    if is_own(arguments.dataset):
        return prepare_own_data(arguments)
    check_dataset(arguments.dataset)
    if arguments.dataset == "sample":
        return verify_sample(arguments)
    return prepare_published(arguments)


def verify_sample(arguments: argparse.Namespace) -> int:
    """Compare the embedded data set with its hash."""
    from crystalframer.data import sample

    if arguments.source is not None:
        raise UserError("data set 'sample' is part of the package and has no source: leave out --source")
    print(summary(sample.load_sample(), 0, sample.DIRECTORY))
    return 0


def prepare_published(arguments: argparse.Namespace) -> int:
    """Prepare a published data set."""
    from crystalframer.data import store
    from crystalframer.data.preparation.prepare import prepare
    from crystalframer.data.progress import on_stderr

    done = prepare(
        arguments.dataset,
        arguments.source,
        partial=arguments.partial,
        force=arguments.force,
        processes=arguments.processes,
        watch=on_stderr,
    )
    published, rejects = PUBLISHED[arguments.dataset], done.manifest["rejects"]
    print(summary(store.read_store(done.directory), rejects, done.directory))
    if not done.made:
        print("it was prepared already and is unchanged; --force makes it again")
    if rejects:
        print(f"the reasons of the {rejects:,} rejected records are in {done.directory / store.REJECTS}")
    if arguments.partial:
        print("not the published split (--partial): results are not comparable with published ones")
    print(f"terms: {published.licence}; cite: {'; '.join(published.cite)}")
    return 0


def is_own(text: str) -> bool:
    """Return whether the command line names a user's own path and not a published data set."""
    return text not in PUBLISHED and (Path(text).exists() or "/" in text or bool(Path(text).suffix))


def prepare_own_data(arguments: argparse.Namespace) -> int:
    """Prepare a folder, file or table of the user's own crystals."""
    from crystalframer.data import store
    from crystalframer.data.preparation.user_data import UNSPECIFIED, OwnData, prepare_own
    from crystalframer.data.progress import on_stderr
    from crystalframer.environment import cores

    units = [text.partition("=") for text in arguments.unit]
    wrong = next(("".join(parts) for parts in units if not all(parts)), None)
    if wrong is not None:
        raise UserError(f"--unit {wrong}: expected TASK=UNIT, such as bandgap=eV")
    data = OwnData(
        source=Path(arguments.dataset),
        name=arguments.name,
        targets=arguments.targets,
        units={task: unit for task, _, unit in units},
        split=int(arguments.split) if arguments.split.isdecimal() else Path(arguments.split),
        train=arguments.train,
        val=arguments.val,
        keep_duplicates=arguments.keep_duplicates,
        subset_of=arguments.subset_of,
    )
    processes = arguments.processes or min(8, cores())
    directory, manifest = prepare_own(data, processes=processes, watch=on_stderr)
    dataset = store.read_store(directory)
    print(summary(dataset, manifest["rejects"], directory))
    for note in manifest["notes"]:
        print(note)
    for task, published in manifest.get("subset_of", {}).items():
        name, _, part = published.partition(":")
        sizes = manifest["splits"][task]
        print(f"{task}: {PUBLISHED[name].tasks[part].coverage(sizes['train'], sizes['test'])} of {published}")
    if manifest["rejects"]:
        print(f"the reasons of the {manifest['rejects']:,} rejected entries are in {directory / store.REJECTS}")
    for task in dataset.tasks.values():
        empty = [part for part, size in manifest["splits"][task.name].items() if size == 0]
        if empty:
            print(f"{task.name}: nothing in {' and '.join(empty)}: give a split, or change --split, --train or --val")
    unspecified = [task.name for task in dataset.tasks.values() if task.unit == UNSPECIFIED]
    if unspecified:
        print(f"no unit is known of {', '.join(unspecified)}: give it with --unit {unspecified[0]}=UNIT")
    name = next(iter(dataset.tasks))
    settings = training_settings(manifest["splits"][name]["train"])
    options = "".join(f" --set train.{key}={value}" for key, value in settings.items())
    print(f"train with: crystalframer train --dataset {dataset.name} --task {name}{options}")
    return 0


def training_settings(crystals: int) -> dict[str, int]:
    """Return settings by which so many crystals train a model in minutes, on a CPU too: a first try.

    Each crystal is seen ten to fifty times, a batch holds an eighth of them, but four at least and 128 at most.
    """
    epochs = max(10, min(50, 12_000 // max(1, crystals)))
    batch_size = 2 ** (min(max(crystals // 8, min(crystals, 4), 1), 128).bit_length() - 1)
    return {"batch_size": batch_size, "epochs": epochs, "average_epochs": epochs // 5}


def summary(dataset: "CrystalDataset", rejects: int, where: Path) -> str:
    """Return what a data set holds, a line a task."""
    import numpy as np

    from crystalframer.data.dataset import SPLITS
    from crystalframer.geometry.crystal import ELEMENTS

    elements = np.unique(dataset.atomic_numbers)
    names = max(17, *(len(name) for name in dataset.tasks)) + 1
    units = max(11, *(len(task.unit) for task in dataset.tasks.values())) + 1
    lines = [
        f"data set {dataset.name}: {len(dataset):,} crystals, {len(dataset.atomic_numbers):,} atoms "
        f"(at most {dataset.num_atoms.max()} in one), {elements.size} elements up to {ELEMENTS[elements[-1] - 1]}, "
        f"{rejects:,} rejected",
        f"{'task':<{names}}{'unit':<{units}}{'targets':>9}" + "".join(f"{part:>9}" for part in SPLITS),
    ]
    for task in dataset.tasks.values():
        sizes = [int(np.isfinite(task.targets).sum()), *task.sizes.values()]
        row = "".join(f"{size:>9,}" for size in sizes)
        lines.append(f"{task.name:<{names}}{task.unit:<{units}}{row}")
    return "\n".join([*lines, f"fingerprint {dataset.fingerprint}", f"stored in {where}"])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected at least 1")
    return number
