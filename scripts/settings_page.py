"""Writes docs/settings.md, every setting with its default, from crystalframer/config.py."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from crystalframer import config
from crystalframer.atomic_files import replace_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "settings.md"
ROOMS = {"data": config.DataConfig, "model": config.ModelConfig, "train": config.TrainConfig}
HEAD = """\
# Settings

Every setting, with its default, its unit and the paper's symbol. A sweep file holds them by room
(`model: {cutoff: 6}`), a command line by their dotted name (`--set model.cutoff=6`). Written by
`python scripts/settings_page.py`.
"""


def page() -> str:
    """Return the page: a table for each room."""
    tree = ast.parse(Path(config.__file__).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    parts = [HEAD]
    for room, settings in ROOMS.items():
        meanings = _meanings(classes[settings.__name__])
        types = get_type_hints(settings)
        parts.append(f"\n## {room}\n\n{settings.__doc__}\n\n| setting | default | meaning |\n|---|---|---|\n")
        for one in fields(settings):
            default = "`null`" if one.default is None else f"`{one.default}`"
            parts.append(f"| `{room}.{one.name}` | {default} | {meanings[one.name]}{_choices(types[one.name])} |\n")
    return "".join(parts)


def _meanings(node: ast.ClassDef) -> dict[str, str]:
    """Return what stands below each field of a class, on one line; pages are linked."""
    found = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = " ".join(ast.literal_eval(below.value).split())
            found[field.target.id] = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)
    return found


def _choices(kind: object) -> str:
    """Return what a setting of a few values may be."""
    return f" One of {', '.join(f'`{name}`' for name in get_args(kind))}." if get_origin(kind) is Literal else ""


if __name__ == "__main__":
    replace_text(PAGE, page())
