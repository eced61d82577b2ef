"""A table of texts, and its four forms: Markdown, LaTeX (booktabs), HTML, and CSV with unrounded numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from crystalframer.atomic_files import replace_text
from crystalframer.escaping import for_csv, for_html, for_latex, for_markdown

EMPTY = ""
"""A cell of a run that is missing."""


@dataclass(frozen=True)
class Table:
    """One table: what it says, and what it says about itself."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    """As many texts per row as there are headings."""
    notes: Sequence[str] = ()
    """Sentences above the table: what was measured, on what; text between backquotes is code."""
    emphasised: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """(row, column) of cells to stand out."""

    def marked(self, escape: Callable[[str], str], template: str) -> list[list[str]]:
        """Return the rows with their cells escaped, the emphasised ones put into a template."""
        return [
            [template.format(escape(cell)) if cell and (n, k) in self.emphasised else escape(cell) for k, cell in cells]
            for n, cells in enumerate(map(enumerate, self.rows))
        ]


@dataclass(frozen=True)
class Document:
    """Tables that are written together."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    """Sentences above all tables."""
    remarks: Sequence[str] = ()
    """Lines of a list below all tables: what was left out."""
    records: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The same content as one long table with unrounded numbers."""


def write(document: Document, folder: Path, name: str) -> list[Path]:
    """Write a document as ``name.md``, ``.tex``, ``.html`` and ``.csv``; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": to_markdown(document),
        "tex": to_latex(document),
        "html": to_html(document),
        "csv": to_csv(document),
    }
    for suffix, text in texts.items():
        replace_text(folder / f"{name}.{suffix}", text)
    return [folder / f"{name}.{suffix}" for suffix in texts]


def to_markdown(document: Document) -> str:
    """Return every table as a section with its notes."""
    lines = [f"# {for_markdown(document.title)}"]
    if document.notes:
        lines += ["", *(_sentence(note, for_markdown, "`{}`") for note in document.notes)]
    for table in document.tables:
        notes = [_sentence(note, for_markdown, "`{}`") for note in table.notes]
        lines += ["", f"## {for_markdown(table.title)}", "", *notes, *[""] * bool(notes)]
        lines += markdown_rows(table)
    if document.remarks:
        lines += ["", "Left out:", "", *(f"- {for_markdown(entry)}" for entry in document.remarks)]
    return "\n".join(lines) + "\n"


def markdown_rows(table: Table) -> list[str]:
    """Return the lines of the table itself."""
    rule = ["---", *["---:"] * (len(table.headings) - 1)]
    rows = [list(map(for_markdown, table.headings)), rule, *table.marked(for_markdown, "**{}**")]
    return [f"| {' | '.join(row)} |" for row in rows]


def to_latex(document: Document) -> str:
    """Return one booktabs table per table."""
    lines = [
        f"% {for_latex(document.title)}. Needs \\usepackage{{booktabs}}.",
        *(f"% {for_latex(note)}" for note in document.notes),
    ]
    for table in document.tables:
        caption = " ".join([f"{table.title}.", *table.notes])
        rows = [" & ".join(row) + r" \\" for row in table.marked(for_latex, r"\textbf{{{}}}")]
        lines += [
            "",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{for_latex(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
            r"\toprule",
            " & ".join(map(for_latex, table.headings)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def to_html(document: Document) -> str:
    """Return the tables as a fragment, to be put into a page."""
    lines = [f"<p>{html_sentence(note)}</p>" for note in document.notes]
    for table in document.tables:
        lines += [f"<h4>{for_html(table.title)}</h4>"] if table.title else []
        lines += [*(f"<p>{html_sentence(note)}</p>" for note in table.notes)]
        lines += ['<div class="scroll" tabindex="0"><table>', "<thead>"]
        lines += [_html_row([for_html(heading) for heading in table.headings], "th"), "</thead>", "<tbody>"]
        lines += [_html_row(row, "td") for row in table.marked(for_html, "<strong>{}</strong>")]
        lines += ["</tbody>", "</table></div>"]
    if document.remarks:
        lines += ["<p>Left out:</p>", "<ul>", *(f"<li>{for_html(entry)}</li>" for entry in document.remarks), "</ul>"]
    return "\n".join(lines) + "\n"


def to_csv(document: Document) -> str:
    """Return the records, texts so that no spreadsheet evaluates them."""
    escaped = document.records.map(lambda cell: for_csv(cell) if isinstance(cell, str) else cell)
    return escaped.rename(columns=for_csv).to_csv(index=False, lineterminator="\n")


def html_sentence(text: str) -> str:
    """Return a sentence as HTML; text between backquotes is code."""
    return _sentence(text, for_html, "<code>{}</code>")


def _sentence(text: str, escape: Callable[[str], str], code: str) -> str:
    """Escape a sentence, of which the text between backquotes is code."""
    parts = text.split("`")
    kept = [code.format(for_html(part) if code[0] == "<" else part) for part in parts]
    return "".join(kept[n] if n % 2 else _keep_ends(part, escape) for n, part in enumerate(parts))


def _keep_ends(text: str, escape: Callable[[str], str]) -> str:
    """Escape a part of a sentence, of which the blanks at its ends matter."""
    inner = text.strip()
    return text.replace(inner, escape(inner)) if inner else text


def _html_row(cells: Sequence[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"
