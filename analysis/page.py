"""The page that shows every item: one HTML file beside the files it refers to, without a network.

The question and its answer come first, then how sure it is, why, details, and last what is missing, as commands.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.documents import Document, html_sentence, to_html
from analysis.items import Context, Group, Item, Product
from analysis.pairs import answer
from analysis.results import MissingError
from crystalframer.escaping import for_html
from crystalframer.pictures.palette import PAGE_STYLE

HEADINGS: dict[Group, str] = {
    "how sure": "How sure",
    "why": "Why",
    "details": "Details",
    "published": "Published figures",
}
"""Of the groups below the answer."""
_GROWS = "Look again in a minute; where nothing makes them any more, the command that makes this page starts over."


@dataclass(frozen=True)
class Section:
    """An item and what became of it."""

    item: Item
    product: Product | None
    missing: tuple[MissingError, ...] = ()
    error: str = ""
    """Why it could not be made of what is there."""


def render(context: Context, sections: Sequence[Section], to_come: int = 0) -> str:
    """Return the page's HTML, with a line on the sections still to come."""
    shown = [section for section in sections if section.product is not None]
    groups = {group: [section for section in shown if section.item.group == group] for group in HEADINGS}
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{for_html(context.sweep)}</title>",
        f"<style>\n{PAGE_STYLE.read_text(encoding='utf-8')}</style></head><body>",
        *_navigation(groups, any(section.missing for section in sections)),
        "<main>",
        *_first_screen(context, [section for section in shown if section.item.group == "answer"]),
        *(line for section in sections if section.error for line in _failed(section)),
    ]
    for group, members in groups.items():
        if members:
            lines.append(f'<h2 id="{_anchor(group)}">{HEADINGS[group]}</h2>')
            lines += [line for section in members for line in _section(section)]
    if to_come:
        lines.append(f"<p><strong>Sections not made yet: {to_come}.</strong> {_GROWS}</p>")
    lines += _missing(sections)
    lines += _left_out(context)
    return "\n".join([*lines, "</main></body></html>"]) + "\n"


def _navigation(groups: dict[Group, list[Section]], missing: bool) -> Iterator[str]:
    entries = {_anchor(group): HEADINGS[group] for group, members in groups.items() if members}
    yield '<nav aria-label="contents"><ul><li><a href="#answer">Answer</a></li>'
    for anchor, heading in {**entries, **({"missing": "What is missing"} if missing else {})}.items():
        yield f'<li><a href="#{anchor}">{heading}</a></li>'
    yield "</ul></nav>"


def _first_screen(context: Context, sections: Sequence[Section]) -> list[str]:
    """Return the question, the answer, the table and the picture."""
    if context.found is None:
        return [
            f'<section id="answer"><h1>{for_html(context.sweep)}</h1>',
            f"<p>No finished trials yet. Run <code>{for_html(context.command)}</code>.</p></section>",
        ]
    question, *rest = [part for part in context.results.description.split("\n\n") if part] or [context.sweep]
    lines = [f'<section id="answer"><h1>{for_html(question)}</h1>']
    products = [section.product for section in sections if section.product is not None]
    documents = [product.document for product in products if product.document is not None]
    for comparison in context.comparisons if documents else ():
        is_named = len(context.comparisons) > 1 or comparison.shared
        of = f"<strong>{for_html(comparison.title)}.</strong> " if is_named else ""
        lines.append(f'<p class="answer">{of}{for_html(" ".join(answer(comparison)))}</p>')
    lines.append(f'<p class="quiet">{for_html(context.sweep)}: {for_html(context.results.progress())}.</p>')
    pictures = [line for section in sections for line in _pictures(section)]
    tables = [_bare(document) for document in documents]
    lines += [
        '<div class="first"><div id="ablation">',
        *tables,
        '</div><div id="frame_errors">',
        *pictures,
        "</div></div>",
    ]
    lines += [f'<p class="quiet">{for_html(part)}</p>' for part in rest]
    notes = [note for document in documents for note in (*document.notes, *document.tables[0].notes)]
    lines += ["<details><summary>What was measured, and the files</summary>"]
    lines += [f"<p>{html_sentence(note)}</p>" for note in notes]
    return [*lines, *(line for product in products for line in _files(product)), "</details>", "</section>"]


def _bare(document: Document) -> str:
    """Return a document's tables without what is said about them, a single one without its title."""
    single = len(document.tables) == 1
    tables = [replace(table, notes=(), title="" if single else table.title) for table in document.tables]
    return to_html(replace(document, tables=tables, notes=(), remarks=()))


def _section(section: Section) -> list[str]:
    item, product = section.item, section.product
    assert product is not None, "what is not there is not shown"
    lines = [f'<section id="{item.name}"><h3>{for_html(item.title)}</h3>', f"<p>{for_html(item.text)}</p>"]
    lines += [f"<p>{for_html(product.text)}</p>"] if product.text else []
    lines += _pictures(section)
    for page in product.pages:
        name = for_html(page.stem.replace("_", " "))
        frame = f'<iframe src="{for_html(page.name)}" loading="lazy" title="{name}"></iframe>'
        lines.append(f"<details><summary>Turn or point at it: {name}</summary>{frame}</details>")
    if product.document is not None:
        table = to_html(product.document)
        closed = item.group == "published" and bool(section.missing)
        lines.append(f"<details><summary>The table</summary>{table}</details>" if closed else table)
    return [*lines, *_files(product), "</section>"]


def _pictures(section: Section) -> list[str]:
    item, lines = section.item, []
    for picture in section.product.pictures if section.product else ():
        alt = for_html(f"{item.title}: {picture.stem.replace('_', ' ')}")
        caption = f"<figcaption>{for_html(item.text)}</figcaption>" if item.group == "answer" else ""
        image = f'<img src="{for_html(picture.name)}" alt="{alt}" width="{_width(picture)}">'
        lines.append(f"<figure>{image}{caption}</figure>")
    return lines


def _files(product: Product) -> list[str]:
    pictures = [file for path in product.pictures for file in (path, path.with_suffix(".pdf"))]
    names = [for_html(path.name) for path in [*product.tables, *pictures, *product.pages]]
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in names)
    return [f'<p class="quiet files">{links}</p>'] if links else []


def _failed(section: Section) -> list[str]:
    title = for_html(section.item.title)
    return [f'<div class="failed"><p><strong>{title} could not be made:</strong> {for_html(section.error)}</p></div>']


def _missing(sections: Sequence[Section]) -> list[str]:
    """List what is missing, by the command that would produce it."""
    by_command: dict[str, list[str]] = {}
    for section in sections:
        for missing in section.missing:
            by_command.setdefault(missing.command, []).append(f"{section.item.title}: {missing.reason}")
    if not by_command:
        return []
    lines = ['<section id="missing"><h2>What is missing</h2>']
    for command, reasons in by_command.items():
        lines += [f'<pre tabindex="0"><code>{for_html(command)}</code></pre>', "<ul>"]
        lines += [*(f"<li>{for_html(reason)}</li>" for reason in reasons), "</ul>"]
    return [*lines, "</section>"]


def _left_out(context: Context) -> list[str]:
    if context.found is None or not context.found.left_out:
        return []
    entries = [f"<li>{for_html(entry)}</li>" for entry in context.found.left_out]
    return [f"<details><summary>{len(entries)} runs left out</summary><ul>", *entries, "</ul></details>"]


def _anchor(group: Group) -> str:
    return group.replace(" ", "_")


def _width(picture: Path) -> int:
    """Return the width in CSS pixels at which a picture of 200 dots per inch has text of the page's size."""
    from PIL import Image

    with Image.open(picture) as image:
        return round(image.width * 0.75)
