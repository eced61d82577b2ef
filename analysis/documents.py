"""A table of texts, and its four forms: Markdown, LaTeX (booktabs), HTML, and CSV with unrounded numbers."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

EMPTY = ""
"""A cell of a run that is missing."""
SUFFIXES = ("md", "tex", "html", "csv")

_LATEX = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "±": r"$\pm$", "Å": r"\AA{}"}
_LATEX |= {"₂": "$_2$", "−": "$-$", "×": r"$\times$", "≤": r"$\leq$", "²": "$^2$", "°": r"$^\circ$"}


@dataclass(frozen=True)
class Table:
    """One table: what it says, and what it says about itself."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    """As many texts per row as there are headings."""
    notes: Sequence[str] = ()
    """Sentences above the table: what was measured, on what."""
    emphasised: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """(row, column) of cells to stand out."""


@dataclass(frozen=True)
class Document:
    """Tables that are written together."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    """Sentences above all tables."""
    remarks: Sequence[str] = ()
    """Lines of a list below all tables."""
    remarks_title: str = "Left out"
    records: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The same content as one long table with unrounded numbers."""


def write(document: Document, folder: Path, name: str) -> list[Path]:
    """Write a document as ``name.md``, ``.tex``, ``.html`` and ``.csv``; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": to_markdown(document),
        "tex": to_latex(document),
        "html": to_html(document),
        "csv": document.records.to_csv(index=False, lineterminator="\n"),
    }
    paths = []
    for suffix in SUFFIXES:
        path = folder / f"{name}.{suffix}"
        path.write_text(texts[suffix], encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


def to_markdown(document: Document) -> str:
    """Return every table as a section with its notes."""
    lines = [f"# {document.title}"]
    if document.notes:
        lines += ["", *document.notes]
    for table in document.tables:
        lines += ["", f"## {table.title}", ""]
        if table.notes:
            lines += [*table.notes, ""]
        lines.append(_line(table.headings))
        lines.append(_line(["---", *["---:"] * (len(table.headings) - 1)]))
        lines += [_line(row) for row in _marked(table, "**{}**")]
    if document.remarks:
        lines += ["", f"{document.remarks_title}:", "", *(f"- {entry}" for entry in document.remarks)]
    return "\n".join(lines) + "\n"


def to_latex(document: Document) -> str:
    """Return one booktabs table per table."""
    lines = [
        f"% {document.title}. Needs \\usepackage{{booktabs}}.",
        *(f"% {escape_latex(note)}" for note in document.notes),
    ]
    for table in document.tables:
        caption = " ".join([f"{table.title}.", *table.notes])
        escaped = Table(table.title, table.headings, [[escape_latex(cell) for cell in row] for row in table.rows])
        lines += [
            "",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
            r"\toprule",
            _latex_line([escape_latex(heading) for heading in table.headings]),
            r"\midrule",
            *(_latex_line(row) for row in _marked(escaped, r"\textbf{{{}}}", table.emphasised)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def to_html(document: Document) -> str:
    """Return the tables as a fragment, to be put into a page."""
    lines = [f"<p>{_sentence(note)}</p>" for note in document.notes]
    for table in document.tables:
        lines += [f"<h3>{html.escape(table.title)}</h3>", *(f"<p>{_sentence(note)}</p>" for note in table.notes)]
        escaped = Table(table.title, table.headings, [[html.escape(cell) for cell in row] for row in table.rows])
        lines += ['<div class="scroll"><table>', "<thead>", _html_line(table.headings, "th"), "</thead>", "<tbody>"]
        lines += [_html_line(row, "td") for row in _marked(escaped, "<strong>{}</strong>", table.emphasised)]
        lines += ["</tbody>", "</table></div>"]
    if document.remarks:
        lines.append(f"<p>{html.escape(document.remarks_title)}:</p>")
        lines += ["<ul>", *(f"<li>{html.escape(entry)}</li>" for entry in document.remarks), "</ul>"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Return a text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Return mean ± sample standard deviation, the mean alone for one value, nothing for none."""
    if not values:
        return EMPTY
    series = pd.Series(values, dtype=float)
    deviation = f" ± {series.std():.{digits}f}" if len(series) > 1 else ""
    return f"{series.mean():.{digits}f}{deviation}"


def record(**cells: object) -> Mapping[str, object]:
    """Return a row of `Document.records`."""
    return cells


def _marked(table: Table, template: str, emphasised: frozenset[tuple[int, int]] | None = None) -> list[list[str]]:
    marks = table.emphasised if emphasised is None else emphasised
    return [
        [template.format(cell) if (n, k) in marks and cell else cell for k, cell in enumerate(row)]
        for n, row in enumerate(table.rows)
    ]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def _html_line(texts: Sequence[str], cell: str) -> str:
    shown = [html.escape(text) for text in texts] if cell == "th" else texts
    return "<tr>" + "".join(f"<{cell}>{text}</{cell}>" for text in shown) + "</tr>"


def _sentence(text: str) -> str:
    """Escape a sentence; `code` between backquotes becomes code."""
    parts = html.escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
