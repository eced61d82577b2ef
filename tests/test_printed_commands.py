"""Every command that the program or its pages tell someone to run is one: the real parsers read it.

What those commands then do is tested where they are.
"""

import argparse
import ast
import contextlib
import importlib
import io
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from crystalframer.cli import COMMANDS, parser

ROOT = Path(__file__).parents[1]
OURS = re.compile(rf"(?:\.venv/bin/)?crystalframer ((?:{'|'.join(COMMANDS)})\b[^`\n;|&>\\]*(?:\\\n[^`\n;|&>\\]*)*)")
THEIRS = re.compile(r"`(?:[A-Z_]+=\S+ )?((?:mlflow|ray) (?!ui|up)[a-z][^`]*)`")
AFTER = re.compile(r"\\?\s{3,}|[,:.]? \(|(?<!\.)\.$|[,:.] |…| #")
"""What ends a command within prose."""
PLACE = "1"
"""In place of what a message fills in."""
PAGES = [ROOT / "README.md", ROOT / "sweeps" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted(path for room in ("crystalframer", "analysis") for path in (ROOT / room).rglob("*.py"))


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a program, or the code of a page."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from re.findall(r"(`[^`\n]+`)", content)
        yield from re.findall(r"^(?: {4}|\$ )(.+(?:\\\n.+)*)$", content, re.MULTILINE)
        return
    nodes = list(ast.walk(ast.parse(content)))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else PLACE for part in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def commands(pattern: re.Pattern[str]) -> dict[str, str]:
    """Return where each command stands that a pattern finds."""
    found: dict[str, str] = {}
    for path in (*PAGES, *SOURCES):
        for text in texts(path):
            for match in pattern.finditer(text):
                command = AFTER.split(match[1].replace("\\\n", " "))[0].strip()
                found.setdefault(command, str(path.relative_to(ROOT)))
    return found


def refusal(command: str) -> str:
    """Return what the parser says against a command, nothing if it reads it."""
    words = shlex.split(command, comments=True)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser(words).parse_args(words)
    except SystemExit as ended:
        return said.getvalue().strip().rpartition("\n")[2] if ended.code else ""
    return ""


def test_ours() -> None:
    found = commands(OURS)
    whole = [command for command in found if len(command.split()) > 1]  # others are mentioned, and need more
    assert len(whole) > 50
    assert {found[command]: said for command in whole if (said := refusal(command.replace("'", "")))} == {}


def test_examples_of_the_help_as_they_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    found = set()
    for name in COMMANDS:
        (action,) = (one for one in parser([name])._actions if isinstance(one, argparse._SubParsersAction))
        lines = action.choices[name].format_help().replace("\\\n", " ").splitlines()
        examples = [line.strip() for line in lines if re.match(r" +crystalframer ", line)]
        found |= {example.removeprefix("crystalframer ") for example in examples}
    assert len(found) > 30
    assert {command: said for command in found if (said := refusal(command))} == {}


@pytest.mark.parametrize(("name", "module"), [("mlflow", "mlflow.cli"), ("ray", "ray.scripts.scripts")])
def test_others(name: str, module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own code
        program = importlib.import_module(module).cli
    found = [command for command in commands(THEIRS) if command.startswith(f"{name} ")]
    for command in found:
        words, group = [PLACE if word == "..." else word for word in shlex.split(command)[1:]], program
        while isinstance(group, click.Group) and words:
            following, words = words[0], words[1:]
            with click.Context(group) as context:
                group = group.get_command(context, following)
            assert group is not None, command
        if words:
            group.make_context(name, words)
    assert len(found) >= 3
