"""A CIF's blocks as tables of values: spelling of tags, unknown values and harmless repetition are dealt with here."""

import math
import re
from collections.abc import Iterator
from typing import Any

import gemmi

from crystalframer.errors import UserError


class CifError(UserError):
    """A CIF block that does not say which crystal it means."""


class Block:
    """One block; ``_Space_Group.name_H-M_alt`` and ``_space_group_name_h-m_alt`` are the same tag here."""

    def __init__(self, block: gemmi.cif.Block) -> None:
        """Index a block of gemmi's."""
        self.name = block.name
        self._places: dict[str, list[tuple[gemmi.cif.Item, int]]] = {}
        self._values: dict[int, list[str]] = {}
        self._items = list(block)  # what keeps the document in memory
        for item in self._items:
            tags = [_pair(item)[0]] if item.pair is not None else item.loop.tags if item.loop is not None else []
            for column, tag in enumerate(tags):
                self._places.setdefault(normal_tag(tag), []).append((item, column))

    def __contains__(self, tag: str) -> bool:
        return tag in self._places

    def tags(self) -> Iterator[str]:
        """Yield the tags that have a value which is known."""
        for tag, places in self._places.items():
            if any(not gemmi.cif.is_null(value) for item, column in places for value in self._column(item, column)):
                yield tag

    def raw(self, tag: str) -> list[str]:
        """Return the values of a tag as they stand there, one for each row of its loop; empty where it is absent.

        Raises:
            CifError: the block states it several times, with different values.
        """
        places = self._places.get(tag, [])
        values = [self._column(item, column) for item, column in places]
        for other in values[1:]:
            if len(other) != len(values[0]) or not all(map(_same, values[0], other)):
                first, second = (gemmi.cif.as_string(column[0])[:40] if column else "" for column in (values[0], other))
                raise CifError(f"the file states {tag} twice, {first!r} and {second!r}: which one counts is not known")
        return values[0] if values else []

    def texts(self, tag: str) -> list[str]:
        """Return the values of a tag without their quotes."""
        return [gemmi.cif.as_string(value).strip() for value in self.raw(tag)]

    def stated(self, *tags: str) -> list[str]:
        """Return the known values of the first of some tags that has any: not ``?``, ``.`` or empty."""
        for tag in tags:
            found = [text for text in self.texts(tag) if text not in ("", "?", ".")]
            if found:
                return found
        return []

    def number(self, *tags: str) -> float:
        """Return the first known value of some tags as a number, NaN where there is none."""
        found = self.stated(*tags)
        return float(gemmi.cif.as_number(found[0])) if found else math.nan

    def _column(self, item: gemmi.cif.Item, column: int) -> list[str]:
        if item.pair is not None:
            return [_pair(item)[1]]
        assert item.loop is not None
        key = id(item)
        if key not in self._values:
            self._values[key] = list(item.loop.values)
        return self._values[key][column :: item.loop.width()]


def _pair(item: gemmi.cif.Item) -> tuple[str, str]:
    pair: Any = item.pair  # gemmi's stub says object
    return str(pair[0]), str(pair[1])


def normal_tag(tag: str) -> str:
    """Return a tag in small letters, the mmCIF dot as an underscore."""
    return tag.lower().replace(".", "_")


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a CIF; tags and names that occur twice are judged where they matter.

    Raises:
        CifError: the text is no CIF.
    """
    text = text.removeprefix("\ufeff")
    try:
        document = gemmi.cif.read_string(text, 0)
    except (ValueError, RuntimeError) as error:
        place = re.sub(r"^string:(\d+)\S*", r"line \1:", str(error))
        raise CifError(f"the CIF is malformed ({place})") from error
    return [Block(block) for block in document]


def _same(first: str, second: str) -> bool:
    if gemmi.cif.as_string(first).strip() == gemmi.cif.as_string(second).strip():
        return True
    numbers = gemmi.cif.as_number(first), gemmi.cif.as_number(second)
    return math.isclose(*numbers, rel_tol=1e-6)
