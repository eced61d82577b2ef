"""Reading YAML strictly: sizes are bounded before anything is built, and every value but null is text.

What a text stands for depends on the setting: ``5e-4`` and ``010`` are numbers or not by `resolving.setting_value`, and
a data set called ``2024`` or ``no`` keeps its name.
"""

import itertools
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from crystalframer.atomic_files import require_regular
from crystalframer.errors import UserError
from crystalframer.resolving import SETTINGS, setting_value
from crystalframer.validation import quote, unknown

MOST_BYTES = 250_000
MOST_VALUES = 50_000
"""Of a file, aliases counted as often as they stand in it."""
DEEPEST = 20
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "null", "seq", "map", "merge")}


class _StrictLoader(yaml.SafeLoader):
    """YAML whose values are text, null, lists and mappings, without repeated keys and no larger than allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}
        """How many values a node comes to, by its identity; unknown while it is being read."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        assert event.start_mark is not None
        line = event.start_mark.line + 1
        if self._depth > DEEPEST:
            raise UserError(f"line {line}: more than {DEEPEST} lists and mappings within each other")
        node = super().compose_node(parent, index)
        assert node is not None
        if node.tag not in _TAGS:
            raise UserError(f"line {line}: got the tag {quote(node.tag)}, expected values without tags")
        if not isinstance(event, yaml.AliasEvent):
            pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
            parts = () if isinstance(node, yaml.ScalarNode) else itertools.chain.from_iterable(pairs)
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in parts)
        elif id(node) not in self._sizes:
            raise UserError(f"line {line}: a list or mapping contains itself")
        if self._sizes[id(node)] > MOST_VALUES:
            raise UserError(f"line {line}: {self._sizes[id(node)]:,} values, expected at most {MOST_VALUES:,}")
        self._depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return tag if tag in _TAGS else self.DEFAULT_SCALAR_TAG

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen:
                raise UserError(f"key {quote(key)} is stated twice, on lines {seen[key]} and {line}")
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says.

    Raises:
        UserError: it cannot be read, is too large, is no text in UTF-8, or no YAML as `parse_yaml` wants it.
    """
    try:
        require_regular(path)
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from error
    if len(content) > MOST_BYTES:
        raise UserError(f"has {path.stat().st_size:,} bytes, expected at most {MOST_BYTES:,}")
    try:
        return parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError("is no text in UTF-8; save it in that encoding") from error


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says, every value but null as text.

    Raises:
        UserError: it is no YAML, states a key twice, or is larger or deeper than allowed.
    """
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}") from error


def parse_set(texts: Sequence[str]) -> dict[str, Any]:
    """Return what ``--set KEY=VALUE`` texts say, by key; of two for one key the last counts.

    A value is written as in a sweep file: a number, a text, null, or a list such as ``[0, 1]``.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set: got {quote(text)}, expected KEY=VALUE such as train.epochs=20")
        values[key.strip()] = parse_yaml(value)
    return values


def settings(where: str, content: Any) -> dict[str, Any]:
    """Flatten nested sections, check every dotted key, and turn texts into numbers where the setting is one."""
    flat: dict[str, Any] = {}
    for key, value in mapping(where, content).items():
        nested = key in ("data", "model", "train") and isinstance(value, Mapping)
        entries = {f"{key}.{name}": entry for name, entry in value.items()} if nested else {key: value}
        for dotted, entry in entries.items():
            if dotted in flat:
                raise UserError(f"setting {dotted!r} is stated twice in {where}")
            if dotted not in SETTINGS:
                raise UserError(unknown(f"setting in {where}:", dotted, SETTINGS))
            flat[dotted] = setting_value(dotted, entry)
    return flat


def mapping(where: str, content: Any) -> Mapping[str, Any]:
    """Return a mapping, or raise a `UserError` for anything else."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: got {quote(content)}, expected a mapping of keys to values")
    return content


def list_of(where: str, content: Any) -> list[Any]:
    """Return a list that is not empty, or raise a `UserError` for anything else."""
    if not isinstance(content, list) or not content:
        raise UserError(f"{where}: got {quote(content)}, expected a list of values such as [0, 1]")
    return content
