"""Which element a type symbol or an atom's label names; what names two elements or none is refused, not guessed."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS

NUMBER_OF = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)} | {"D": 1, "T": 1}
"""Atomic number by symbol, deuterium and tritium included."""
_SITE_LETTERS = frozenset("ABDISTUVWXY")
"""Letters that name a kind of site as often as an element: a label of one of them contradicts no type symbol."""
_RARE = 98
"""Elements beyond this one, californium, have no crystals that anyone measured."""
_GASES = frozenset({2, 10, 18, 36, 54, 86})
_GROUP = re.compile(r"(?:H2O|H3O|D2O|NH[234]|CH[234]|CO3|NO[23]|SO[34]|PO4|BO3|VO4|UO2)\s*")
_SPLIT_LIKELY = frozenset("HCNO")
"""First letters of capitals such as HO, CO, NI that may as well be an atom and what it is bound to."""


def element_of(symbol: str) -> int:
    """Return the atomic number of a type symbol: an element and perhaps its charge, ``Fe``, ``FE``, ``Fe3+``, ``O2-``.

    Raises:
        UserError: it is not one element; ``OH`` or ``Wat`` would hide hydrogens.
    """
    match = re.fullmatch(r"([A-Za-z]{1,2})(?:\d*\.?\d*[+-]?\d*|[_ (].*)", symbol.strip())
    letters = match.group(1) if match else ""
    number = NUMBER_OF.get(letters.capitalize(), 0)
    if not number or _several(symbol) or (len(letters) == 2 and letters.isupper() and number > _RARE):
        raise UserError(f"{symbol[:20]!r} is not an element")
    return number


def elements_of_sites(
    types: Sequence[str], labels: Sequence[str], formula: Collection[str], partial: Sequence[bool]
) -> tuple[list[int], list[str]]:
    """Return the atomic number of each site of a CIF, and what is doubtful about them.

    Args:
        types: type symbols, or empty.
        labels: labels, or empty; one of both has an entry for each site.
        formula: the symbols in the formula that the file states; it decides between readings of a label.
        partial: whether each site is partly occupied; its label may be that of another element there.

    Raises:
        UserError: a site names two elements or none, or its type symbol and its label name different ones.
    """
    texts = types or labels
    readings: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        if text not in readings:
            with _naming(labels[row] if types and labels else ""):
                readings[text] = _readings(text, not types)
    has_hydrogen = any(options == [1] for options in readings.values())
    proper = any(re.match(r"[A-Z][a-z]", text) for text in texts)
    capitals = not proper and (bool(types) or any(map(_is_capitals, readings.items())))
    found: dict[str, int] = {}
    for text, options in readings.items():
        with _naming(labels[texts.index(text)] if types and labels else ""):
            found[text] = _decide(text, options, formula, has_hydrogen, capitals)
    warnings = []
    if types and labels:
        warnings += _contradictions(types, labels, found, bool(formula), partial)
    waters = [label for label in texts if not types and re.match(r"O[WHwh](?![a-z])", label)]
    if waters and not has_hydrogen:
        warnings.append(f"the label {waters[0]!r} is read as oxygen; its hydrogens are not in the file")
    return [found[text] for text in texts], warnings


def strange_elements(numbers: Collection[int]) -> list[str]:
    """Return a warning where a crystal holds elements that solids hardly have: a symbol was perhaps misread."""
    strange = sorted(number for number in set(numbers) if number > _RARE or number in _GASES)
    if not strange:
        return []
    names = ", ".join(ELEMENTS[number - 1] for number in strange)
    return [f"it contains {names}, which crystals hardly do: check the symbols"]


def _readings(text: str, is_label: bool) -> list[int]:
    """Return the elements that a text can mean, the likeliest first; one where there is no doubt.

    Raises:
        UserError: it names two elements or none.
    """
    if names := _several(text):
        raise UserError(f"{text[:20]!r} names {' and '.join(names)}: give it one element")
    match = re.match(r"\s*([A-Za-z]*)", text)
    letters = match.group(1) if match else ""
    if not is_label:
        number = element_of(text)
        unsigned = re.fullmatch(r"\s*[A-Z]{2}\d+", text) is not None  # PO4, CO2
        split = letters.upper() == "T" or (_is_pair(letters) and (letters[0] in _SPLIT_LIKELY or unsigned))
        return [number, 0] if split else [number]
    options = _label_readings(letters)
    if not options:
        raise UserError(f"{text[:20]!r} is not an element")
    return [*options, 0] if _GROUP.fullmatch(text) and options[-1] else options


def _label_readings(letters: str) -> list[int]:
    """Return the elements that a label's letters can mean; 0 stands for a reading as no single element."""
    first, two = NUMBER_OF.get(letters[:1].upper(), 0), NUMBER_OF.get(letters[:2].capitalize(), 0)
    if len(letters) <= 1:
        return [first, 0] if letters.upper() == "T" else [first] if first else []
    if letters[1].islower() and not letters.islower():
        if not two or letters[2:].islower():
            return []
        if len(letters) != 3:
            return [two] if len(letters) == 2 else []
        return [two, 0] if letters[2] in NUMBER_OF and letters[2] not in "ABCDT" else [two]
    if len(letters) == 2:
        if not two or two > _RARE:
            return [first, 0] if letters[1].upper() in "HDNOF" and first else [first] if first else []
        return [two, first, 0] if _is_pair(letters.upper()) and letters[0].upper() in _SPLIT_LIKELY else [two]
    if len(letters) > 3 or not first:
        return []
    remoteness = letters[0].upper() in "CHNO" and letters[1].upper() in "ABGDEZ"
    return [first] if remoteness or not two else [two, first, 0]


def _is_pair(letters: str) -> bool:
    """Return whether two capitals are an element, and two elements one by one: CO, NI, HO."""
    return (
        len(letters) == 2
        and letters.isupper()
        and all(letter in NUMBER_OF for letter in letters)
        and letters.capitalize() in NUMBER_OF
    )


@contextmanager
def _naming(label: str) -> Iterator[None]:
    """Name the site in what is raised within."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the site {label[:20]!r}: {error}" if label else str(error)) from error


def _is_capitals(reading: tuple[str, list[int]]) -> bool:
    """Return whether a label is surely an element of two letters, both of them capitals: FE1."""
    text, options = reading
    return len(options) == 1 and ELEMENTS[options[0] - 1].upper() == text[:2]


def _decide(text: str, options: list[int], formula: Collection[str], has_hydrogen: bool, capitals: bool) -> int:
    if len(options) == 1:
        return options[0]
    if re.match(r"\s*[Tt](?![A-Za-z])", text):
        if "T" in formula:
            return options[0]
        raise UserError(f"{text.strip()[:20]!r} may be any tetrahedral one or tritium: give it its element")
    possible = [number for number in options if number and ELEMENTS[number - 1] in formula]
    if len(possible) == 1:
        return possible[0]
    hydrogens = len(options) == 2 and re.match(r"\s*[A-Za-z][HhDd](?![a-z])", text) is not None
    if (hydrogens and has_hydrogen) or (capitals and not formula and not hydrogens and not _GROUP.fullmatch(text)):
        return options[0]
    names = " or ".join(ELEMENTS[number - 1] for number in options if number)
    raise UserError(
        f"{text.strip()[:20]!r} may name {names}{' with hydrogen' if hydrogens else ''} or several elements: "
        "give it a type symbol of one element"
    )


def _several(text: str) -> list[str]:
    """Return the symbols of several elements that a text spells out: ``Fe/Ni1``, ``Nb,Zr``, ``Fe0.5Ni0.5``."""
    parts = [part for part in re.split(r"[\s/,;&|+_:()\-]+", text) if part]
    symbols = [match.group(1) for part in parts if (match := re.match(r"([A-Z][a-z]?)(?![a-z])", part))]
    if re.search(r"[/,;&|]", text):
        words = [re.sub(r"[^A-Za-z].*", "", part) for part in parts]
        symbols = [word.capitalize() if word.capitalize() in NUMBER_OF else word[:1].upper() for word in words]
    else:
        symbols = symbols[:1] + [symbol for symbol in symbols[1:] if len(symbol) == 2]
    joined = re.findall(r"([A-Z][a-z])(?![a-z])\d*\.?\d*", text)
    if re.search(r"\d\.\d", text):
        joined = re.findall(r"([A-Z][a-z]?)(?![a-z])\d*\.?\d*", text)
    symbols = symbols if len(symbols) > len(joined) else joined
    known = list(dict.fromkeys(symbol for symbol in symbols if symbol in NUMBER_OF))
    return known if len(known) > 1 else []


def _contradictions(
    types: Sequence[str], labels: Sequence[str], found: dict[str, int], has_formula: bool, partial: Sequence[bool]
) -> list[str]:
    """Compare plain labels, an element and a number, with the type symbols beside them."""
    warnings: list[str] = []
    for type_symbol, label, is_partial in zip(types, labels, partial, strict=True):
        match = re.fullmatch(r"([A-Z][a-z]?)\d*", label)
        if match is None or NUMBER_OF.get(match.group(1), found[type_symbol]) == found[type_symbol]:
            continue
        said = f"the site's label is {label[:20]!r}, but its type symbol is {type_symbol[:20]!r}"
        if not (has_formula or is_partial or match.group(1) in _SITE_LETTERS):
            raise UserError(f"{said}: one of them is wrong")
        if not warnings:
            warnings.append(f"{said}; the type symbol counts")
    return warnings
