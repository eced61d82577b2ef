"""Many crystals as flat arrays, their target properties and splits, and the selection a trial learns from."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from crystalframer.config import DataConfig
from crystalframer.errors import UserError, near_matches
from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.geometry.occupancies import Mixture

T = TypeVar("T", bound=np.generic)
SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
"""Names of the splits; ``Task.split`` holds their positions here, or -1 for none."""

LONGEST_UNIT = 100
"""Characters of a unit in a metric's name, of which MLflow keeps 250."""
SEVERAL_UNIT = "std"
"""Unit of the errors of several tasks together: standard deviations of the training targets, averaged over tasks."""


@dataclass(frozen=True, eq=False)
class Task:
    """A target property of the n crystals of a data set, and who is trained, validated and tested on."""

    name: str
    unit: str
    """Physical unit of the targets, e.g. ``eV/atom``."""
    targets: NDArray[np.float64]
    """(n,), NaN where the property is absent."""
    split: NDArray[np.int8]
    """(n,), 0 train, 1 val, 2 test, -1 none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", _read_only(self.targets))
        object.__setattr__(self, "split", _read_only(self.split))

    @property
    def sizes(self) -> dict[SplitName, int]:
        """Crystals with a target in each split."""
        finite = np.isfinite(self.targets)
        return {name: int((finite & (self.split == code)).sum()) for code, name in enumerate(SPLITS)}


@dataclass(frozen=True, eq=False)
class CrystalDataset:
    """n crystals of N atoms in all; crystal i owns the atoms ``offsets[i]:offsets[i + 1]``.

    The arrays are read-only views, possibly of a memory-mapped file: copy what is to become a tensor.

    Raises:
        UserError: shapes that do not fit together, an id that occurs twice, an infinite target, an unknown split code.
    """

    name: str
    ids: NDArray[np.str_]
    """(n,), unique."""
    offsets: NDArray[np.int64]
    """(n + 1,), from 0 to N."""
    lattice: NDArray[np.float64]
    """(n, 3, 3), rows a, b, c in Å."""
    frac_coords: NDArray[np.float64]
    """(N, 3)."""
    atomic_numbers: NDArray[np.int64]
    """(N,)."""
    tasks: Mapping[str, Task]
    """Target properties by name."""
    stored_fingerprint: str | None = None
    """Fingerprint recorded by a prepared store, whose content was checked when it was written; else None."""
    mixture: Mixture | None = None
    """Occupancies of all disordered sites, counted over all crystals; None where every crystal is ordered."""

    def __post_init__(self) -> None:
        n, total = len(self.ids), len(self.atomic_numbers)
        shapes = {
            "ids": (self.ids.shape, (n,)),
            "offsets": (self.offsets.shape, (n + 1,)),
            "lattice": (self.lattice.shape, (n, 3, 3)),
            "frac_coords": (self.frac_coords.shape, (total, 3)),
            "atomic_numbers": (self.atomic_numbers.shape, (total,)),
        }
        for task in self.tasks.values():
            shapes[f"targets of {task.name}"] = (task.targets.shape, (n,))
            shapes[f"split of {task.name}"] = (task.split.shape, (n,))
        for what, (got, expected) in shapes.items():
            self._require(got == expected, f"{what} has shape {got}, expected {expected}")
        for name in ("ids", "offsets", "lattice", "frac_coords", "atomic_numbers"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))
        if self.stored_fingerprint is None:
            self._check_content(total)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Crystal:
        """Return crystal ``index`` (an `IndexError` beyond the end, as for a list)."""
        row = range(len(self))[index]
        atoms = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        mixture = self.mixture.part(atoms.start, atoms.stop) if self.mixture is not None else None
        numbers = self.atomic_numbers[atoms]
        return Crystal(self.lattice[row], self.frac_coords[atoms], numbers, str(self.ids[row]), mixture)

    @property
    def num_atoms(self) -> NDArray[np.int64]:
        """(n,) atoms in each crystal."""
        return np.diff(self.offsets)

    @cached_property
    def fingerprint(self) -> str:
        """`content_hash`, or what it was when the store was written."""
        return self.content_hash() if self.stored_fingerprint is None else self.stored_fingerprint

    def content_hash(self) -> str:
        """Return the SHA-256 (hexadecimal) of ids, crystals, targets, units and splits; the name is not part of it."""
        digest = hashlib.sha256()
        _update(digest, "ids", np.frombuffer("\n".join(self.ids.tolist()).encode(), dtype=np.uint8))
        for name in ("offsets", "lattice", "frac_coords", "atomic_numbers"):
            _update(digest, name, getattr(self, name))
        if self.mixture is not None:
            for name, values in vars(self.mixture).items():
                _update(digest, f"mixture {name}", values)
        for key in sorted(self.tasks):
            task = self.tasks[key]
            _update(digest, f"targets of {key} in {task.unit}", task.targets)
            _update(digest, f"split of {key}", task.split)
        return digest.hexdigest()

    @classmethod
    def from_crystals(cls, name: str, crystals: Sequence[Crystal], tasks: Iterable[Task] = ()) -> "CrystalDataset":
        """Gather single crystals.

        Args:
            name: name of the data set.
            crystals: at least one, each with an id of its own.
            tasks: target properties, in the order of the crystals.

        Raises:
            UserError: no crystals, an id that is missing or occurs twice, or tasks of another length.
        """
        if not crystals:
            raise UserError(f"data set {name!r}: got no crystals, expected at least one")
        for position, crystal in enumerate(crystals):
            if not crystal.id:
                raise UserError(f"data set {name!r}: crystal number {position} has no id: give each crystal one")
        sizes = np.array([crystal.num_atoms for crystal in crystals], dtype=np.int64)
        return cls(
            name=name,
            ids=np.array([crystal.id for crystal in crystals]),
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            lattice=np.stack([crystal.lattice for crystal in crystals]),
            frac_coords=np.concatenate([crystal.frac_coords for crystal in crystals]),
            atomic_numbers=np.concatenate([crystal.atomic_numbers for crystal in crystals]),
            tasks={task.name: task for task in tasks},
            mixture=Mixture.concatenate([crystal.mixture for crystal in crystals], sizes),
        )

    def _check_content(self, total: int) -> None:
        ends_fit = self.offsets[0] == 0 and self.offsets[-1] == total
        self._require(
            bool(ends_fit and (self.num_atoms > 0).all()), f"offsets do not ascend strictly from 0 to {total}"
        )
        problem = self.mixture.problem(total, len(ELEMENTS)) if self.mixture is not None else ""
        self._require(not problem, problem)
        unique, counts = np.unique(self.ids, return_counts=True)
        self._require(len(unique) == len(self), f"id {unique[counts > 1][:1].tolist()} occurs more than once")
        for task in self.tasks.values():
            infinite = self.ids[np.isinf(task.targets)]
            self._require(
                not infinite.size,
                f"task {task.name!r} has {infinite.size} infinite targets, first for crystal {infinite[:1].tolist()}: "
                "expected numbers, or NaN where the property is absent",
            )
            codes = np.unique(task.split)
            self._require(
                bool(np.isin(codes, (-1, 0, 1, 2)).all()),
                f"task {task.name!r} has split codes {codes.tolist()}, expected 0 train, 1 val, 2 test, -1 none",
            )

    def _require(self, ok: bool, message: str) -> None:
        if not ok:
            raise UserError(f"data set {self.name!r}: {message}")


@dataclass(frozen=True, eq=False)
class TaskData:
    """What a trial learns from: a data set, one or several of its tasks and the rows of each split."""

    dataset: CrystalDataset
    task: str
    """Name of the task; several are joined by commas."""
    unit: str
    """Unit of the targets; `SEVERAL_UNIT` for several tasks, whose own units are `units`."""
    targets: NDArray[np.float64]
    """(n,), over all crystals of the data set; finite in every selected row. For T tasks (n, T), NaN where a crystal
    has no target or belongs to another split of that task; every selected row has at least one."""
    rows: Mapping[SplitName, NDArray[np.int64]]
    """Rows of the data set by split, ordered by the SHA-256 of their ids, so that a smaller subset is a prefix."""
    fingerprint: str
    """SHA-256 (hexadecimal) of the data set's fingerprint, the task and the selected rows."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the targets' columns."""
        return tuple(self.task.split(","))

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each task."""
        return (self.unit,) if self.targets.ndim == 1 else tuple(self.dataset.tasks[name].unit for name in self.tasks)

    def crystals(self, split: SplitName) -> Iterator[Crystal]:
        """Return the crystals of a split, in the order of its rows."""
        return (self.dataset[int(row)] for row in self.rows[split])


def select_task(dataset: CrystalDataset, config: DataConfig) -> TaskData:
    """Select the rows of a task: those of a split that have a target, or a fixed subset of them.

    Several tasks, joined by commas, share the rows of a split. Where a crystal is in different splits for different
    tasks it counts for the test before the validation and that before the training, with the targets of that split
    alone: so no crystal is both learned from and tested on, and the test set of each task is the one it has on its own.

    Args:
        dataset: any crystals; ``config.dataset`` is not looked at.
        config: the task and the sizes of the splits.

    Raises:
        UserError: the task is unknown (near matches are listed), a split has no target, or is smaller than asked for.
    """
    chosen = [_find_task(dataset, name) for name in config.task.split(",")]
    task = chosen[0] if len(chosen) == 1 else _joint_task(chosen)
    sizes = {"train": config.train_size, "val": config.val_size, "test": config.test_size}
    rows = {name: _split_rows(dataset, task, name, sizes[name]) for name in SPLITS}
    targets = task.targets if len(chosen) == 1 else _joint_targets(chosen, task.split)
    digest = hashlib.sha256(f"{dataset.fingerprint} {task.name}".encode())
    for name in SPLITS:
        _update(digest, name, rows[name])
    return TaskData(dataset, task.name, task.unit, targets, rows, digest.hexdigest())


def require_elements(dataset: CrystalDataset, rows: NDArray[np.int64], num_elements: int) -> None:
    """Check that a model of ``num_elements`` elements can read the crystals of ``rows``.

    Raises:
        UserError: naming the first crystal with a heavier element, that element, and how many such crystals there are.
    """
    atoms, numbers = np.arange(len(dataset.atomic_numbers)), dataset.atomic_numbers
    if dataset.mixture is not None:
        atoms, numbers = np.append(atoms, dataset.mixture.sites), np.append(numbers, dataset.mixture.elements)
    heavy = numbers > num_elements
    heavy_atoms, heavy_numbers = atoms[heavy], numbers[heavy]
    heavy_rows = np.searchsorted(dataset.offsets, heavy_atoms, side="right") - 1
    selected = np.isin(heavy_rows, rows)
    if not selected.any():
        return
    first = int(np.argmax(selected))
    number = int(heavy_numbers[first])
    raise UserError(
        f"crystal {str(dataset.ids[heavy_rows[first]])!r} of data set {dataset.name!r} contains {ELEMENTS[number - 1]} "
        f"(Z = {number}), but the model knows elements 1 to {num_elements} (setting 'model.num_elements'); "
        f"{len(np.unique(heavy_rows[selected]))} crystal(s) of the selection are concerned: leave them out or raise it"
    )


def elements_in(dataset: CrystalDataset, rows: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the atomic numbers that the crystals of ``rows`` contain, ascending, disordered sites included."""
    selected = np.zeros(len(dataset), dtype=bool)
    selected[rows] = True
    of_atom = np.repeat(selected, dataset.num_atoms)
    found = np.unique(dataset.atomic_numbers[of_atom])
    if dataset.mixture is not None:
        found = np.union1d(found, dataset.mixture.elements[of_atom[dataset.mixture.sites]])
    return tuple(int(number) for number in found)


def hashed_share(key: str) -> float:
    """Return a number in [0, 1) that a key decides: 16 hexadecimal digits of SHA-256("split:" + key) over 2⁶⁴."""
    return int(hashlib.sha256(f"split:{key}".encode()).hexdigest()[:16], 16) / 2**64


def unit_token(unit: str) -> str:
    """Return a unit as it stands in a metric's name: eV/atom → eV_per_atom, log10(GPa) → log10_GPa.

    Raises:
        UserError: nothing is left of it, or more than a metric's name can hold.
    """
    token = re.sub(r"[^0-9A-Za-z]+", "_", unit.replace("/", "_per_")).strip("_")
    if not token:
        raise UserError(f"unit {unit!r} has no letters or digits, expected something like 'eV/atom'")
    if len(token) > LONGEST_UNIT:
        raise UserError(f"unit {unit[:30]!r}… has {len(unit)} characters, expected something like 'eV/atom'")
    return token


def _find_task(dataset: CrystalDataset, name: str) -> Task:
    if name not in dataset.tasks:
        raise UserError(f"data set {dataset.name!r} has no task {name!r}{near_matches(name, dataset.tasks)}")
    return dataset.tasks[name]


def _joint_task(tasks: Sequence[Task]) -> Task:
    """Return several tasks as one, with a finite target where any of them has one in the crystal's split."""
    codes = np.stack([np.where(np.isfinite(task.targets), task.split, -1) for task in tasks])
    split = codes.max(axis=0).astype(np.int8)
    present = np.where(split >= 0, 0.0, np.nan)
    return Task(",".join(task.name for task in tasks), SEVERAL_UNIT, present, split)


def _joint_targets(tasks: Sequence[Task], split: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return (n, T) targets, NaN where the crystal is not in that split of the task."""
    return _read_only(np.stack([np.where(task.split == split, task.targets, np.nan) for task in tasks], axis=1))


def _split_rows(dataset: CrystalDataset, task: Task, name: SplitName, size: int | None) -> NDArray[np.int64]:
    where = f"data set {dataset.name!r}, task {task.name!r}, {name} split"
    members = np.flatnonzero(task.split == SPLITS.index(name))
    rows = members[np.isfinite(task.targets[members])]
    if not rows.size:
        found = f"{members.size} crystals, all without a target (NaN)" if members.size else "no crystals"
        raise UserError(f"{where}: found {found}, expected at least one crystal with a finite target")
    if size is not None and size > rows.size:
        raise UserError(
            f"{where}: setting 'data.{name}_size' asks for {size} crystals, but only {rows.size} have a target: "
            "ask for fewer, or give null for all"
        )
    keys = [hashlib.sha256(id.encode()).digest() for id in dataset.ids[rows].tolist()]
    order = sorted(range(rows.size), key=keys.__getitem__)
    return rows[order[:size]].astype(np.int64)


def _read_only(array: NDArray[T]) -> NDArray[T]:
    view = array.view()
    view.setflags(write=False)
    return view


def _update(digest: Any, name: str, array: NDArray[Any]) -> None:
    """Feed an array into a hash in a way that depends on its content alone, not on the machine."""
    portable = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest.update(f"{name} {portable.dtype.str} {portable.shape}\n".encode())
    digest.update(portable.data)
