"""Synthetic sources of published size: the embedded crystals, each copy strained and shifted by its own little bit."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from crystalframer.data.sample import load_sample
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.published import PUBLISHED

BATCH = 1000
"""Records written at a time."""


def write_source(name: str, count: int, path: Path, seed: int = 0) -> int:
    """Write an archive like that of a published data set; every number in full, as the published files have it.

    Args:
        name: `jarvis` or `oqmd`.
        count: records.
        path: the ``.json.zip``.
        seed: of the strains, shifts and targets.

    Returns:
        Bytes of the JSON text in it.
    """
    written = 0
    records = _records(name, count, np.random.default_rng(seed))
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(path.name.removesuffix(".zip"), "w", force_zip64=True) as file,
    ):
        for start in range(0, count, BATCH):
            some = [next(records) for _ in range(min(BATCH, count - start))]
            text = orjson.dumps(some, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
            written += file.write((b", " if start else b"[") + text)
        written += file.write(b"]")
    return written


def _records(name: str, count: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    published, sample = PUBLISHED[name], load_sample()
    symbols = np.array(["", *ELEMENTS])[sample.atomic_numbers].tolist()
    extra = {f"_{name}_field_{number}": "a value that nothing here reads" for number in range(13)}
    for position in range(count):
        row = int(rng.integers(len(sample)))
        atoms = slice(int(sample.offsets[row]), int(sample.offsets[row + 1]))
        lattice = sample.lattice[row] @ (np.eye(3) + 0.003 * rng.standard_normal((3, 3)))
        targets = rng.standard_normal(len(published.fields)).tolist()
        yield {
            published.id_fields[0]: f"{name}-{position}",
            "atoms": {
                "lattice_mat": lattice,
                "coords": (sample.frac_coords[atoms] + rng.random(3)) % 1.0,
                "elements": symbols[atoms],
                "abc": np.sqrt((lattice**2).sum(axis=1)),
                "angles": [90.0, 90.0, 120.0],
                "cartesian": False,
                "props": [""] * (atoms.stop - atoms.start),
            },
            **dict(zip(published.fields.values(), targets, strict=True)),
            **extra,
        }
