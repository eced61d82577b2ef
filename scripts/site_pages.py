"""What the documentation site (mkdocs.yml) shows beside docs/: the README, other folders' texts, the commands' help."""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from crystalframer.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
BESIDE = (
    *("*.md", "LICENSE", "cluster.yaml", "clusters/*", "sweeps/*"),
    *("benchmarks/*.md", "benchmarks/results/*.md", "benchmarks/results/*.png", "crystalframer/data/*/*.md"),
)


def on_files(files: Any, config: Any) -> Any:
    """Add the README as the first page, the other texts, the files that pages link to, and the commands' help."""
    for path in (path for pattern in BESIDE for path in sorted(ROOT.glob(pattern))):
        name = str(path.relative_to(ROOT))
        files.append(File.generated(config, "index.md" if name == "README.md" else name, abs_src_path=str(path)))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to docs/ and out of it lead to where the site has these files."""
    if "/" not in page.file.src_uri:  # of docs/, or beside it as the README is
        return re.sub(r"\]\((\.\./|docs/)", "](", markdown)
    return re.sub(r"\]\(\.\./docs/", "](../", markdown)


def commands() -> str:
    """Return the page of commands, each with its help."""
    os.environ["COLUMNS"] = "100"
    page = "# Commands\n"
    for words in ([], *([name] for name in COMMANDS)):
        with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
            main([*words, "--help"])
        page += f"\n## {' '.join(['crystalframer', *words])}\n\n```text\n{text.getvalue()}```\n"
    return page
