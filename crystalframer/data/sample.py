"""The embedded data set `sample`: 6,175 real crystals with DFT properties, inside the package.

Three published sets of Materials Project data (see ``embedded/ATTRIBUTION.md``), built into one file by
``scripts/build_sample.py``. A row's id is ``SOURCE:MATERIAL``, e.g. ``flla:mp-10``: a material that two sets hold is
two rows. The split is decided by the material (`split_by_hash`), so both rows fall into the same one.
"""

import functools
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.dataset import CrystalDataset, Task, hashed_share
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED

DIRECTORY = Path(__file__).parent / "embedded"
"""Where ``sample.npz``, ``sample.json`` (the manifest) and ``ATTRIBUTION.md`` stand."""
SCALE = 10**8
"""Coordinates are stored as integers: fractions and Å times this number, which is exact for the sources' decimals."""

SOURCES: dict[str, tuple[str, ...]] = {
    "flla": ("formation_energy", "e_hull"),
    "elastic": ("bulk_modulus", "shear_modulus"),
    "dielectric": ("bandgap",),
}
"""The three sets in the order of their rows, and the tasks each one brings."""


@functools.cache
def load_sample() -> CrystalDataset:
    """Return the embedded data set, verified against its manifest; read once per process.

    Raises:
        UserError: the file is missing or is not the one the manifest describes.
    """
    return read_sample(DIRECTORY)


def read_sample(directory: Path) -> CrystalDataset:
    """Read ``sample.npz`` after comparing its SHA-256 with ``sample.json`` beside it.

    Raises:
        UserError: a file is missing, or the hashes differ.
    """
    manifest = read_manifest(directory)
    path = directory / "sample.npz"
    if not path.is_file():
        raise UserError(f"embedded data set {path} is missing: {_REMEDY}")
    content = path.read_bytes()
    got = hashlib.sha256(content).hexdigest()
    if got != manifest["sha256"]:
        raise UserError(f"embedded data set {path} has SHA-256 {got}, expected {manifest['sha256']}: {_REMEDY}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dataset_from_arrays({name: arrays[name] for name in arrays.files})


def read_manifest(directory: Path = DIRECTORY) -> dict[str, Any]:
    """Return the manifest: sources, hashes, counts and the stored precision.

    Raises:
        UserError: it is missing.
    """
    path = directory / "sample.json"
    if not path.is_file():
        raise UserError(f"manifest {path} of the embedded data set is missing: {_REMEDY}")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def dataset_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> CrystalDataset:
    """Decode the arrays of ``sample.npz``.

    Args:
        arrays: ``material_ids`` (n,) ASCII; ``sources`` (n,) positions in `SOURCES`; ``num_atoms`` (n,);
            ``lattice`` (n, 3, 3) and ``frac_coords`` (N, 3), integers in units of 1/`SCALE`; ``atomic_numbers`` (N,);
            and per task ``targets_NAME``, one number for each row of the task's source.
    """
    materials = arrays["material_ids"].astype(np.str_)
    sources = arrays["sources"]
    names, units = list(SOURCES), PUBLISHED["sample"].units
    split = split_by_hash(materials.tolist())
    tasks = {}
    for code, name in enumerate(names):
        for task in SOURCES[name]:
            targets = np.full(len(materials), np.nan)
            targets[sources == code] = arrays[f"targets_{task}"]
            tasks[task] = Task(task, units[task], targets, np.where(sources == code, split, -1).astype(np.int8))
    return CrystalDataset(
        name="sample",
        ids=np.array([f"{names[code]}:{material}" for code, material in zip(sources, materials, strict=True)]),
        offsets=np.concatenate([[0], np.cumsum(arrays["num_atoms"], dtype=np.int64)]),
        lattice=arrays["lattice"] / SCALE,
        frac_coords=arrays["frac_coords"] / SCALE,
        atomic_numbers=arrays["atomic_numbers"].astype(np.int64),
        tasks=tasks,
    )


def split_by_hash(keys: Iterable[str]) -> NDArray[np.int8]:
    """Return the split code of each key: a `hashed_share` below 0.8 is train, below 0.9 val, the rest test.

    Equal keys share a split, and adding crystals moves no other crystal.
    """
    return np.digitize([hashed_share(key) for key in keys], (0.8, 0.9)).astype(np.int8)


_REMEDY = (
    "reinstall the package, or in a checkout restore the file with `git checkout -- crystalframer/data/embedded` "
    "or rebuild it with `python scripts/build_sample.py PATH_TO_MATMINER_SDIST`"
)
