"""What reading yields for each structure: a crystal, or the reason why there is none."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from crystalframer.geometry.crystal import Crystal

_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.,]*(e[-+]?\d+)?|\b[A-Z][a-z]?\b(, )?")
"""What differs between warnings of one kind."""


@dataclass(frozen=True)
class Reading:
    """One structure of a file, a table's row or from memory: exactly one of crystal and reason."""

    id: str = ""
    """Unique among those read together: the file's stem, ``stem#1``, ``stem#2`` where it holds several."""
    source: str = ""
    """The file, or empty."""
    crystal: Crystal | None = None
    """The crystal, with this id."""
    reason: str = ""
    """Why there is none, in one sentence."""
    name: str = ""
    """The structure's own name, where the file gives one."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Values that stand beside the structure, e.g. targets."""
    warnings: tuple[str, ...] = ()
    """What is doubtful about a crystal that can be used, a sentence each."""
    established: Mapping[str, str] = field(default_factory=dict)
    """How symmetry, elements and occupancies were established, where the format leaves them open."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", " ".join(self.reason.split()).removeprefix("crystal without id: "))

    def renamed(self, id: str, source: str | None = None) -> "Reading":
        """Return the same under another id, its crystal included, and of another source where one is given."""
        crystal = self.crystal and self.crystal.with_id(id)
        return replace(self, id=id, crystal=crystal, source=self.source if source is None else source)


def by_kind(warned: Iterable[tuple[str, str]], most: int = 10) -> list[str]:
    """Return a sentence for each kind of warning, the most frequent first: how many structures, the first, its text.

    Args:
        warned: ids and warnings; those that differ in numbers, elements and quoted words alone are of one kind.
        most: kinds to tell; a last sentence counts the others.
    """
    counts: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for id, text in warned:
        kind = _PARTICULAR.sub("", text)
        counts[kind] += 1
        first.setdefault(kind, (id, text))
    lines = []
    for kind, count in counts.most_common(most):
        id, text = first[kind]
        lines.append(f"{count:,} structures, the first {id!r}: {text}" if count > 1 else f"1 structure, {id!r}: {text}")
    further = sum(counts.values()) - sum(count for _, count in counts.most_common(most))
    return [*lines, f"{further:,} more, of {len(counts) - most} further kinds"] if further else lines


def numbered(id: str, taken: Counter[str]) -> str:
    """Return an id, which is counted in `taken`; one that occurs again gets the suffix ``#2``, ``#3`` and so on."""
    taken[id] += 1
    return id if taken[id] == 1 else f"{id}#{taken[id]}"


def with_own_names(readings: Iterable[Reading]) -> Iterator[Reading]:
    """Prefer the structures' own names as ids, see `numbered`."""
    taken: Counter[str] = Counter()
    for reading in readings:
        yield reading.renamed(numbered(reading.name or reading.id, taken))
