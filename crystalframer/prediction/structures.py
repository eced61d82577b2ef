"""What a predictor accepts as a structure, turned into crystals with a name and a source.

What reads files is imported where a file is read: training and predicting crystals of a store need no such library.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from crystalframer.data.structures.reading import Reading, with_own_names
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core.structure import Structure

StructureLike: TypeAlias = Union[Crystal, "Structure", "Atoms", str, Path]
"""A crystal of ours, of pymatgen or of ASE, the path of a file of structures, or the text of one (several lines)."""


def named_structures(structures: StructureLike | Iterable[StructureLike], processes: int = 1) -> Iterator[Reading]:
    """Yield every structure in order; runs of paths are read by `processes` processes.

    Raises:
        UserError: something is no structure.
    """
    paths: list[Path] = []
    for position, entry in enumerate(_several(structures)):
        if isinstance(entry, str) and "\n" in entry.strip():
            yield from from_files(paths, processes)
            paths = []
            yield from_text(entry, str(position))
            continue
        if isinstance(entry, str | Path):
            paths.append(Path(entry))
            continue
        yield from from_files(paths, processes)
        paths = []
        yield _in_memory(entry, position)
    yield from from_files(paths, processes)


def from_files(paths: Sequence[Path], processes: int = 1) -> Iterator[Reading]:
    """Yield the structures of files in order, what cannot be read with its reason."""
    if paths:
        from crystalframer.data.structures.files import read_structures

        yield from with_own_names(read_structures(paths, processes=processes))


def expand(paths: Iterable[Path]) -> list[Path]:
    """Return the structure files that paths name: folders are walked; what else there is, is taken as it is."""
    from crystalframer.data.structures.files import find_structure_files

    found: list[Path] = []
    for path in paths:
        found += (find_structure_files(path) if path.is_dir() else []) or [path]
    return found


def from_text(text: str, id: str) -> Reading:
    """Return the structure that a CIF, a POSCAR or a pymatgen dictionary in JSON describes."""
    from crystalframer.data.structures.formats import ReadLimits, parse_structure

    limits = ReadLimits()
    if len(text) > limits.max_bytes:
        return Reading(id, reason=f"the text has more than {limits.max_bytes} characters")
    return parse_structure(text, limits).renamed(id)


def _several(structures: StructureLike | Iterable[StructureLike]) -> Iterable[StructureLike]:
    """Return the structures as an iterable; pymatgen's and ASE's are iterables themselves, of sites and atoms."""
    single = isinstance(structures, Crystal | str | Path) or _is_structure(structures) or _is_atoms(structures)
    return [structures] if single else structures  # type: ignore[list-item, return-value]


def _in_memory(entry: Any, position: int) -> Reading:
    name = str(position)
    if isinstance(entry, Crystal):
        return Reading(entry.id or name, crystal=entry)
    if _is_atoms(entry):
        from crystalframer.data.structures.formats import ReadLimits, from_atoms

        reading = from_atoms(entry, ReadLimits(max_atoms=len(entry)))
        return reading.renamed(reading.name or name)
    if not _is_structure(entry):
        raise UserError(
            f"structure number {position} is a {type(entry).__name__}; expected a pymatgen Structure, ASE Atoms, "
            "a Crystal or the path of a file"
        )
    try:
        return Reading(name, crystal=Crystal.from_structure(entry, name))
    except UserError as error:
        return Reading(name, reason=str(error))


def _is_structure(entry: object) -> bool:
    return hasattr(entry, "lattice") and hasattr(entry, "frac_coords") and hasattr(entry, "sites")


def _is_atoms(entry: object) -> bool:
    return hasattr(entry, "get_scaled_positions") and hasattr(entry, "pbc")
