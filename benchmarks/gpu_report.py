"""What `benchmarks.on_gpu` found, as a page: what failed, what was measured, then every table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def report(content: Mapping[str, Any]) -> str:
    """Return the page, Markdown.

    Args:
        content: what `on_gpu.json` holds.
    """
    return "\n".join(_lines(content)) + "\n"


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    stages: Sequence[Mapping[str, Any]] = content["stages"]
    facts = {record["item"]: record["value"] for stage in stages for record in stage["records"] if "item" in record}
    yield f"# The GPU list on {facts.get('device', content['device'])}"
    yield ""
    if content["quick"]:
        yield "Run with `--quick`: shows that the list works; its numbers mean nothing."
        yield ""
    about = [f"{name} {facts[name]}" for name in ("date", "git_commit", "torch", "triton", "python") if name in facts]
    yield " · ".join(about) if about else "(the stage `environment` did not say what this machine is)"
    yield ""
    yield "| stage | standing | s | what came out |"
    yield "|---|---|---|---|"
    for stage in stages:
        said = stage["error"] or next((record["summary"] for record in stage["records"] if "summary" in record), "")
        standing = stage["standing"] if stage["standing"] == "ok" else f"**{stage['standing']}**"
        yield f"| {stage['name']} | {standing} | {stage['seconds']:.0f} | {_cell(said)} |"
    failed = [stage for stage in stages if stage["standing"] != "ok"]
    if failed:
        yield from ("", "## What failed", "")
    for stage in failed:
        yield f"- **{stage['name']}** ({stage['question']}): {stage['error']}; see `logs/{stage['name']}.log`"
        for record in stage["records"]:
            if record.get("ok") is False:
                yield f"  - {', '.join(f'{key} {_cell(value)}' for key, value in record.items() if key != 'ok')}"
    for stage in stages:
        rows = [record for record in stage["records"] if "summary" not in record]
        if rows:
            yield from ("", f"## {stage['name']}: {stage['question']}", "")
            yield from _table(rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table with a column for every key, in the order in which they come up."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield "| " + " | ".join(column.replace("_", " ") for column in columns) + " |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(column)) for column in columns) + " |"


def _cell(value: object) -> str:
    """Return a value as text that a table can hold: four significant digits, no line breaks or bars."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "**no**"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case int():
            return f"{value:,}"
        case _:
            return " ".join(str(value).replace("|", "\\|").split())
