"""Reading YAML strictly: repeated and unknown keys, wrong types and ranges are errors that say what was meant."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import yaml

from crystalframer.config import setting_names
from crystalframer.errors import UserError, near_matches

SECTIONS = ("data", "model", "train")


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1 without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen:
                raise UserError(f"key {key!r} is stated twice, on lines {seen[key]} and {line}")
            seen[key] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        UserError: it is no YAML, or states a key twice.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}") from error


def settings(where: str, content: Any) -> dict[str, Any]:
    """Flatten nested sections and check every dotted key."""
    flat: dict[str, Any] = {}
    for key, value in mapping(where, content).items():
        nested = key in SECTIONS and isinstance(value, Mapping)
        entries = {f"{key}.{name}": entry for name, entry in value.items()} if nested else {key: value}
        for dotted, entry in entries.items():
            if dotted in flat:
                raise UserError(f"setting {dotted!r} is stated twice in {where}")
            flat[dotted] = entry
    known_keys(flat, setting_names(), f"setting in {where}:")
    return flat


def known_keys(content: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raise a `UserError` with near matches for a key that is none of the known ones."""
    for key in content:
        if key not in known:
            raise UserError(f"unknown {what} {key!r}{near_matches(str(key), known)}")


def mapping(where: str, content: Any) -> Mapping[str, Any]:
    """Return a mapping, or raise a `UserError` for anything else."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: got {content!r}, expected a mapping of keys to values")
    return content


def list_of(where: str, content: Any, *, empty: bool = False) -> list[Any]:
    """Return a list, or raise a `UserError` for anything else."""
    if not isinstance(content, list) or not (content or empty):
        raise UserError(f"{where}: got {content!r}, expected a list of values such as [0, 1]")
    return content


def whole_number(where: str, value: Any, *, least: int) -> int:
    """Return a whole number that is large enough, or raise a `UserError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{where}: got {value!r}, expected a whole number, at least {least}")
    return value


def positive_number(where: str, value: Any, *, zero: bool = False) -> float:
    """Return a positive number, or raise a `UserError` for anything else; `zero` lets 0 pass."""
    ok = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not ok or value < 0 or (value == 0 and not zero):
        raise UserError(f"{where}: got {value!r}, expected a number {'that is not negative' if zero else 'above 0'}")
    return float(value)
