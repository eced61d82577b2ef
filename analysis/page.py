"""The page that shows every item: one HTML file beside the files it refers to, without a network."""

import html
from collections.abc import Sequence
from pathlib import Path

from analysis.items import Context, Missing, Product, Section

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --quiet: #667; --line: #dde; --accent: #D55E00; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); margin: 0; background: #fff; }
main { max-width: 1240px; margin: 0 auto; padding: 1.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.8rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } p { margin: .4rem 0; max-width: 75ch; }
nav { columns: 3 16rem; margin: 1rem 0 1.5rem; padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 6px; }
nav a { display: block; color: inherit; text-decoration: none; padding: .1rem 0; }
nav a:hover { text-decoration: underline; }
nav .absent { color: var(--quiet); } nav .absent::after { content: " \\2013 missing"; color: var(--accent); }
section { border-top: 1px solid var(--line); }
img { max-width: 100%; height: auto; display: block; margin: .8rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .84rem; margin: .5rem 0 1rem; }
th, td { padding: .28rem .55rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } td { white-space: nowrap; }
thead th { vertical-align: bottom; border-bottom: 2px solid #889; font-weight: 600; max-width: 14rem; }
tr.published td { color: var(--quiet); }
code { font: .86em ui-monospace, "DejaVu Sans Mono", monospace; background: #f4f4f7; padding: .1em .3em; }
pre { background: #f4f4f7; padding: .5rem .8rem; overflow-x: auto; margin: .3rem 0; border-radius: 4px; }
pre code { padding: 0; } .files { font-size: .82rem; color: var(--quiet); } .files a { color: var(--quiet); }
.missing { border-left: 3px solid var(--accent); padding: .1rem .9rem; margin: .8rem 0; }
details { margin: .5rem 0; } summary { cursor: pointer; color: #0072B2; }
iframe { width: 100%; height: 560px; border: 1px solid var(--line); }
"""


def render(context: Context, sections: Sequence[Section]) -> str:
    """Return the page's HTML."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(context.sweep)}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{html.escape(context.sweep)}</h1>",
        *_summary(context),
        '<nav aria-label="contents">',
        *(_entry(section) for section in sections),
        "</nav>",
        *_lacking(sections),
        *(line for section in sections for line in _section(section)),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _summary(context: Context) -> list[str]:
    results = context.results
    if results is None:
        return [f"<p>No finished trials yet. Run <code>{html.escape(context.command)}</code>.</p>"]
    lines = [f"<p>{html.escape(results.progress())}.</p>"]
    for comparison in context.comparisons:
        sizes = " / ".join(comparison.size(split) for split in ("train", "val", "test")) + " crystals"
        epochs = comparison.common("train.epochs")
        said = f"{comparison.dataset}, {comparison.task.replace('_', ' ')}: {sizes} (train / validation / test)"
        lines.append(f"<p>{html.escape(said)}, {html.escape(str(epochs))} epochs.</p>")
    if results.left_out:
        lines.append(f"<details><summary>{len(results.left_out)} runs left out</summary><ul>")
        lines += [f"<li>{html.escape(entry)}</li>" for entry in results.left_out]
        lines.append("</ul></details>")
    return lines


def _entry(section: Section) -> str:
    kind = ' class="absent"' if section.product is None else ""
    return f'<a{kind} href="#{section.item.name}">{html.escape(section.item.title)}</a>'


def _lacking(sections: Sequence[Section]) -> list[str]:
    """List what is missing, by the command that would produce it."""
    by_command: dict[str, list[str]] = {}
    for section in sections:
        for missing in section.missing:
            by_command.setdefault(missing.command, []).append(f"{section.item.title}: {missing.reason}")
    if not by_command:
        return []
    lines = ['<section id="missing"><h2>What is missing</h2>']
    for command, reasons in by_command.items():
        lines += [f"<pre><code>{html.escape(command)}</code></pre>", "<ul>"]
        lines += [*(f"<li>{html.escape(reason)}</li>" for reason in reasons), "</ul>"]
    return [*lines, "</section>"]


def _section(section: Section) -> list[str]:
    item = section.item
    lines = [
        f'<section id="{item.name}"><h2>{html.escape(item.title)}</h2>',
        f"<p>{html.escape(item.text)}</p>",
    ]
    if section.product is not None:
        lines += _product(item.title, section.product)
    lines += [line for missing in section.missing for line in _missing(missing)]
    return [*lines, "</section>"]


def _product(title: str, product: Product) -> list[str]:
    lines = [f"<p>{html.escape(product.text)}</p>"] if product.text else []
    for picture in product.pictures:
        name = picture.stem.replace("_", " ")
        lines.append(f'<img src="{picture.name}" alt="{html.escape(f"{title}: {name}")}" width="{_width(picture)}">')
    for page in product.pages:
        lines.append(f"<details><summary>Turn it: {html.escape(page.stem.replace('_', ' '))}</summary>")
        frame = f'<iframe src="{page.name}" loading="lazy" title="{html.escape(page.stem)}"></iframe></details>'
        lines.append(frame)
    if product.fragment:
        lines.append(product.fragment)
    files = [*product.tables, *(file for path in product.pictures for file in (path, path.with_suffix(".pdf")))]
    files += product.pages
    links = ", ".join(f'<a href="{path.name}">{path.name}</a>' for path in files)
    return [*lines, f'<p class="files">{links}</p>'] if links else lines


def _missing(missing: Missing) -> list[str]:
    return [
        '<div class="missing">',
        f"<p>Missing: {html.escape(missing.reason)}.</p>",
        f"<pre><code>{html.escape(missing.command)}</code></pre></div>",
    ]


def _width(picture: Path) -> int:
    """Return the width in CSS pixels at which a picture of 200 dots per inch has text of the page's size."""
    from PIL import Image

    with Image.open(picture) as image:
        return round(image.width * 0.75)
