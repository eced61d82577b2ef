"""Build the embedded data set `sample` from matminer 0.4.2's source distribution.

    python scripts/build_sample.py matminer-0.4.2.tar.gz      # or a folder that holds the three CSV files
    python scripts/build_sample.py matminer-0.4.2.tar.gz --check   # compare with the committed file, write nothing

Writes sample.npz and sample.json (the manifest) into crystalframer/data/embedded. Nothing is lost: coordinates are
stored as integers in units of 1e-8, the last decimal of the sources, and the worst displacement is measured.
"""

import argparse
import ast
import csv
import hashlib
import io
import json
import math
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.command_line import reports_user_errors
from crystalframer.data.sample import DIRECTORY, SCALE, SOURCES, dataset_from_arrays
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, Crystal

PACKAGE = "matminer 0.4.2 (source distribution, matminer/datasets)"
FILES = {
    "flla": ("flla_2015.csv", "35b8dbc0b92f4dc7e219fd6606c3a27bee18a9618f376cfee1ff731e306210bb"),
    "elastic": ("elastic_tensor.csv", "f7a18c91fe5dcd51012e5b7e3a37f73aaee9087a036d61bdf9d6464b6fca51a6"),
    "dielectric": ("dielectric_constant.csv", "ecbd410d33c95d5b05822cff6c7c0ba809a024b4ede3855ec5efc48d5e29ea77"),
}
"""File and SHA-256 of each source."""
WORST_DISPLACEMENT = 1e-4
"""Å; the build fails beyond it."""


@dataclass(frozen=True)
class Entry:
    """One row of the data set: a crystal (its id is the material's) and the targets its source brings."""

    source: str
    crystal: Crystal
    targets: dict[str, float]


def read_sources(path: Path) -> dict[str, bytes]:
    """Return the three CSV files of a source distribution or a folder, their hashes checked."""
    if not path.exists():
        raise UserError(f"{path} does not exist: give the path of matminer-0.4.2.tar.gz or a folder with its CSV files")
    contents = {source: _read(path, name) for source, (name, _) in FILES.items()}
    for source, content in contents.items():
        name, expected = FILES[source]
        got = hashlib.sha256(content).hexdigest()
        if got != expected:
            raise UserError(f"{name} in {path} has SHA-256 {got}, expected {expected}: use {PACKAGE}")
    return contents


def parse(source: str, content: bytes) -> Iterator[Entry]:
    """Yield the rows of one CSV file: line 1 is a comment, and rows may begin with an index the header leaves out."""
    csv.field_size_limit(10**8)
    header, *lines = csv.reader(io.StringIO(content.decode("utf-8").split("\n", 1)[1]))
    for fields in lines:
        row = dict(zip(header, fields[len(fields) - len(header) :], strict=True))
        material = row["material_id"]
        if source == "flla":
            targets = {
                "formation_energy": float(row["formation_energy_per_atom"]),
                "e_hull": float(row["e_above_hull"]),
            }
            yield Entry(source, crystal_from_dict(ast.literal_eval(row["structure"]), material), targets)
        elif source == "elastic":
            moduli = {"bulk_modulus": float(row["K_VRH"]), "shear_modulus": float(row["G_VRH"])}
            targets = {name: log10_or_nan(value) for name, value in moduli.items()}
            yield Entry(source, crystal_from_poscar(row["poscar"], material), targets)
        else:
            yield Entry(source, crystal_from_poscar(row["poscar"], material), {"bandgap": float(row["band_gap"])})


def crystal_from_dict(structure: dict[str, Any], material: str) -> Crystal:
    """Read pymatgen's dictionary of an ordered structure."""
    numbers = []
    for site in structure["sites"]:
        (species,) = site["species"]
        if species["occu"] != 1:
            raise UserError(f"{material} is disordered")
        numbers.append(ELEMENTS.index(species["element"]) + 1)
    coords = np.array([site["abc"] for site in structure["sites"]])
    return Crystal(np.array(structure["lattice"]["matrix"]), coords, np.array(numbers), material)


def crystal_from_poscar(text: str, material: str) -> Crystal:
    """Read a POSCAR with scale 1 and direct coordinates, each line of which ends in the element's symbol."""
    lines = text.strip().split("\n")
    count = sum(int(word) for word in lines[6].split())
    if float(lines[1]) != 1 or lines[7] != "direct" or len(lines) != 8 + count:
        raise UserError(f"{material}: expected a POSCAR of scale 1 with direct coordinates")
    lattice = np.array([[float(word) for word in line.split()] for line in lines[2:5]])
    coords = np.array([[float(word) for word in line.split()[:3]] for line in lines[8:]])
    return Crystal(lattice, coords, np.array([ELEMENTS.index(line.split()[3]) + 1 for line in lines[8:]]), material)


def log10_or_nan(value: float) -> float:
    """Return log10 to 12 decimals (the last bits differ between machines), NaN where there is no logarithm."""
    return round(math.log10(value), 12) if value > 0 else math.nan


def to_arrays(entries: Sequence[Entry]) -> tuple[dict[str, NDArray[Any]], float]:
    """Encode the rows as `crystalframer.data.sample.dataset_from_arrays` reads them.

    Returns:
        The arrays, and the worst displacement of an atom by rounding in Å.
    """
    crystals = [entry.crystal for entry in entries]
    arrays: dict[str, NDArray[Any]] = {
        "material_ids": np.array([crystal.id.encode("ascii") for crystal in crystals]),
        "sources": np.array([list(SOURCES).index(entry.source) for entry in entries], dtype=np.uint8),
        "num_atoms": np.array([crystal.num_atoms for crystal in crystals], dtype=np.uint8),
        "lattice": np.rint(np.stack([crystal.lattice for crystal in crystals]) * SCALE).astype("<i8"),
        "frac_coords": np.rint(np.concatenate([crystal.frac_coords for crystal in crystals]) * SCALE).astype("<i4"),
        "atomic_numbers": np.concatenate([crystal.atomic_numbers for crystal in crystals]).astype(np.uint8),
    }
    for source, tasks in SOURCES.items():
        for task in tasks:
            values = [entry.targets[task] for entry in entries if entry.source == source]
            arrays[f"targets_{task}"] = np.array(values, dtype="<f8")
    decoded = dataset_from_arrays(arrays)
    worst = max(
        float(np.linalg.norm(decoded[row].cart_coords - crystal.cart_coords, axis=1).max())
        for row, crystal in enumerate(crystals)
    )
    return arrays, worst


def to_npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return a compressed npz whose bytes depend on the arrays (and the zlib library) alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue(), compresslevel=9)
    return buffer.getvalue()


def build(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the data file and its manifest."""
    contents = read_sources(path)
    entries = [entry for source, content in contents.items() for entry in parse(source, content)]
    arrays, worst = to_arrays(entries)
    if worst >= WORST_DISPLACEMENT:
        raise UserError(f"rounding moves an atom by {worst:.2g} Å, expected less than {WORST_DISPLACEMENT:g} Å")
    dataset = dataset_from_arrays(arrays)
    content = to_npz(arrays)
    manifest = {
        "file": "sample.npz",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "fingerprint": dataset.fingerprint,
        "crystals": len(dataset),
        "atoms": len(dataset.atomic_numbers),
        "materials": len(set(arrays["material_ids"].tolist())),
        "worst_displacement_angstrom": worst,
        "package": PACKAGE,
        "sources": {
            FILES[source][0]: {"sha256": FILES[source][1], "bytes": len(data)} for source, data in contents.items()
        },
        "tasks": {
            name: {
                "unit": task.unit,
                "dropped_not_positive": int(np.isnan(arrays[f"targets_{name}"]).sum()),
                **{split: int((task.split == code).sum()) for code, split in enumerate(("train", "val", "test"))},
            }
            for name, task in dataset.tasks.items()
        },
    }
    return content, manifest


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Build and write the data file, or compare with the committed one."""
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="matminer-0.4.2.tar.gz, or a folder that holds the three CSV files")
    parser.add_argument("--output", type=Path, default=DIRECTORY, help="folder to write to (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with what stands there and write nothing")
    arguments = parser.parse_args(argv)
    content, manifest = build(arguments.source)
    if arguments.check:
        committed = json.loads((arguments.output / "sample.json").read_text(encoding="utf-8"))
        if committed["fingerprint"] != manifest["fingerprint"]:
            raise UserError(f"{arguments.output} differs from a fresh build: rebuild it without --check")
        same = committed["sha256"] == manifest["sha256"]
        print("identical file" if same else f"identical content; other bytes (zlib {zlib.ZLIB_RUNTIME_VERSION})")
        return 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "sample.npz").write_bytes(content)
    (arguments.output / "sample.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(manifest, indent=1))
    return 0


def _read(path: Path, name: str) -> bytes:
    if path.is_dir():
        found = sorted(path.rglob(name))
        if not found:
            raise UserError(f"{path} holds no {name}: use {PACKAGE}")
        return found[0].read_bytes()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(f"/datasets/{name}") and (file := archive.extractfile(member)):
                    return file.read()
    except tarfile.TarError as error:
        raise UserError(f"{path} is not a tar archive ({error}): use {PACKAGE}") from error
    raise UserError(f"{path} holds no {name}: use {PACKAGE}")


if __name__ == "__main__":
    sys.exit(main(None))
