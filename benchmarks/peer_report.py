"""What `benchmarks.beside_peers` found, as a page and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from crystalframer.atomic_files import replacing
from crystalframer.pictures.palette import COLOURS, STYLE

Record = Mapping[str, Any]
OTHER_COLOURS = (COLOURS["lattice"], COLOURS["static_local"], COLOURS["pca"], COLOURS["weighted_pca"], COLOURS["none"])
CONDITIONS = """
All networks learn standardised targets by their mean absolute error, and the last weights count. Those of other
packages train in batches of 32; their learning rate follows the share of the time that is used, so that the schedule
ends with it, and validation on the way is not part of it. CrystalFramer trains as `crystalframer train --minutes` does,
but by processor time: for as many whole epochs as a rehearsal on 16 batches says will fit, validation after each
included. Nobody's time has in it: starting the program, reading the crystals, compiling kernels (once a machine), the
rehearsal, the test."""
PIECES = ("prepare", "step", "predict")


def report(content: Record) -> str:
    """Return the page, Markdown.

    Args:
        content: what `beside_peers.json` holds.
    """
    return "\n".join(_lines(content)) + "\n"


def _lines(content: Record) -> Iterator[str]:
    settings, about, labels = content["settings"], content["about"], content["labels"]
    yield "# Beside other models, on one core"
    yield ""
    yield (
        f"{settings['dataset']}, {settings['task']} in {settings['unit']}: {settings['train']:,} training, "
        f"{settings['val']:,} validation, {settings['test']:,} test crystals. One thread of {about['machine']} "
        f"({about['cores']} cores), {about['date'][:10]}, commit {about['git_commit']}."
    )
    if models := content["speed"].get("models"):
        yield from _speed(models, settings, labels, content["speed"]["load"])
    if content["errors"]:
        yield from _errors(content["errors"], settings, labels)
        yield from ("", "![Error against minutes of one core](beside_peers.png)")
    yield from ("", "## What they are", "")
    seen = {name: one for name, one in (models or {}).items() if "about" in one}
    seen |= {one["model"]: one for one in content["errors"]}
    for name, one in seen.items():
        yield f"- {labels[name]}: {one['about']}."
    versions = {name: version for one in seen.values() for name, version in one.get("versions", {}).items()}
    yield ""
    yield f"Python {about['python']}, {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}."
    if content["errors"]:
        yield CONDITIONS
    if content["failed"]:
        yield from ("", "## What failed", "", *(f"- {what}: {why}" for what, why in content["failed"].items()))


def _speed(
    models: Mapping[str, Record], settings: Record, labels: Mapping[str, str], load: Sequence[str]
) -> Iterator[str]:
    timed = {name: one for name, one in models.items() if one.get("rounds") and "failed" not in one}
    first = next(iter(timed.values()), {}).get("rounds", [])
    yield from ("", "## Speed", "")
    yield (
        f"Milliseconds of processor time a crystal, medians of {len(first)} rounds in which the models took turns, on "
        f"{settings['crystals']} training crystals evenly spaced in order of size, batches of 32; load {load[0]} to "
        f"{load[1]}. × is the step's ratio to the first model's in the same rounds."
    )
    yield ""
    yield "| model | parameters | preparing | training step | × | prediction | memory, MiB | of it for the crystals |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for name, one in timed.items():
        rounds = one["rounds"]
        prepare, step, predict = (_number(median(each[piece] for each in rounds)) for piece in PIECES)
        ratio = median(mine["step"] / theirs["step"] for mine, theirs in zip(rounds, first, strict=True))
        yield (
            f"| {labels[name]} | {one['parameters']:,} | {prepare} | {step} | {_number(ratio)} | {predict} "
            f"| {rounds[-1]['peak_mib']:.0f} | {rounds[-1]['added_mib']:.0f} |"
        )


def _errors(errors: Sequence[Record], settings: Record, labels: Mapping[str, str]) -> Iterator[str]:
    yield from ("", "## Test error after equal processor minutes", "")
    yield f"Mean absolute error in {settings['unit']}; preparing the crystals is part of the time, testing is not."
    yield ""
    yield "| model | test error | seeds | epochs | processor minutes | memory, MiB | load |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, runs in by_model(errors).items():
        found = [one["test_mae"] for one in runs]
        error = f"{mean(found):.4f}" + (f" ({min(found):.4f} to {max(found):.4f})" if len(found) > 1 else "")
        epochs = "" if "epochs" not in runs[0] else f"{mean(one['epochs'] for one in runs):.1f}"
        loads = [float(value) for one in runs for value in one["load"] if value]
        busy = f"{min(loads):.1f} to {max(loads):.1f}" if loads else ""
        minutes = _number(mean(one["processor_minutes"] for one in runs))
        memory = max(one["peak_mib"] for one in runs)
        yield f"| {labels[name]} | {error} | {len(runs)} | {epochs} | {minutes} | {memory:.0f} | {busy} |"


def by_model(errors: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the trainings of each model, best model first."""
    found: dict[str, list[Record]] = {}
    for one in errors:
        found.setdefault(one["model"], []).append(one)
    return dict(sorted(found.items(), key=lambda item: mean(one["test_mae"] for one in item[1])))


def draw(content: Record, file: Path) -> None:
    """Draw errors against core minutes: lines validation during training, dots test at its end."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    settings, others = content["settings"], iter(OTHER_COLOURS)
    with style.context(dict(STYLE)):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlabel="minutes of one core, log axis")
        axes.set_ylabel(f"MAE ({settings['unit']}), log axis")
        axes.set_title("Lines: validation on the way; dots: test at the end, every seed", loc="left")
        for name, runs in by_model(content["errors"]).items():
            colour = COLOURS["max"] if name == "quick" else next(others)
            label = f"{content['labels'][name]}: {mean(one['test_mae'] for one in runs):.3g}"
            for one in runs:
                if one["curve"]:
                    axes.plot(*zip(*one["curve"], strict=True), color=colour, linewidth=0.9, alpha=0.7)
                end = (one["processor_minutes"], one["test_mae"])
                axes.plot(*end, "o", color=colour, markersize=4, label=label if one is runs[0] else None)
        if content["errors"]:
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=6.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        with replacing(file) as beside:
            figure.savefig(beside, format="png", dpi=200, metadata={"Software": None})


def _number(value: float) -> str:
    """Return two significant digits at least, without exponents."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
