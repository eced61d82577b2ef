"""The architecture, drawn from the model itself: its modules, the shapes of their weights, and of what they return.

    python analysis/figures/architecture.py --sweep ablation_sample

builds the model of the sweep's max trial (of the paper's default setting where there is none), sends one crystal
through it, and writes analysis/output/<sweep>/architecture.{pdf,png}.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis.items import Context, Item, Product
from crystalframer.config import ModelConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from crystalframer.nn.model import CrystalFramer

NAME = "architecture"
FILL = {"weights": "#E8F0FA", "frame": "#FCE9DC", "pool": "#F2F2F2"}
CAESIUM_CHLORIDE = ([[4.12, 0, 0], [0, 4.12, 0], [0, 0, 4.12]], [[0, 0, 0], [0.5, 0.5, 0.5]], [55, 17])


Place = tuple[float, float, float, float]
"""Left, bottom, width and height of a box."""


@dataclass(frozen=True)
class Part:
    """A module with weights, as the model has it."""

    name: str
    """Path within the model."""
    weights: str
    """Shapes of its own parameters."""
    output: str
    """Shape of what it returned for one crystal of N atoms."""
    count: int
    """Parameters, those of its parts included."""


def produce(context: Context) -> Product:
    """Draw the model of the sweep's max trial, or of the default setting."""
    config = next((row.model for row in context.rows() if row.frame == "max"), ModelConfig())
    model, parts = traced(config)
    with context.style():
        picture = context.save(draw(model, parts), NAME)
    total = parts[""].count
    return Product([picture], text=f"{total:,} parameters, {parts['blocks.0'].count:,} in each of the blocks.")


def traced(config: ModelConfig) -> tuple["CrystalFramer", dict[str, Part]]:
    """Return a fresh model and its modules by path, with the shapes that one crystal takes on its way."""
    import numpy as np
    import torch

    from crystalframer.data.batch import collate
    from crystalframer.geometry.crystal import Crystal
    from crystalframer.geometry.prepared import prepare_geometry
    from crystalframer.nn.model import CrystalFramer, count_parameters

    lattice, frac_coords, numbers = CAESIUM_CHLORIDE
    crystal = Crystal(np.array(lattice), np.array(frac_coords), np.array(numbers))
    config = replace(config, num_elements=max(config.num_elements, 55))
    model = CrystalFramer(config, kernel="reference", generator=torch.Generator().manual_seed(0))
    batch = collate([prepare_geometry(crystal, config.cutoff)], config.cutoff)
    model.calibrate(batch)
    outputs: dict[str, tuple[int, ...]] = {}

    def remember(name: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            outputs.setdefault(name, tuple(output.shape))

        return hook

    hooks = [module.register_forward_hook(remember(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        model(batch)
    for hook in hooks:
        hook.remove()
    parts = {}
    for name, module in model.named_modules():
        own = [f"{key} {_shape(tuple(p.shape))}" for key, p in module.named_parameters(recurse=False) if p.ndim]
        rows = "S" if outputs.get(name, ())[:1] == (1,) else "N"
        output = " × ".join([rows, *map(str, outputs[name][1:])]) if name in outputs else ""
        parts[name] = Part(name, "\n".join(own), output, count_parameters(module))
    return model, parts


def draw(model: "CrystalFramer", parts: dict[str, Part]) -> "Figure":
    """Return the figure: the whole model above, the inside of a block below."""
    from matplotlib.figure import Figure

    config = model.config
    figure = Figure(figsize=(7.0, 4.5))
    axes = figure.add_axes((0.005, 0.005, 0.99, 0.99))
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 64)
    axes.set_axis_off()
    blocks = [f"blocks.{level}" for level in range(config.num_blocks)]
    shown = [*blocks] if len(blocks) <= 4 else [blocks[0], "…", blocks[-1]]
    columns = ["embedding", *shown, "pool", "head_in", "head_out"]
    width, gap = 92 / len(columns) - 2.2, 2.2
    places = {}
    for number, name in enumerate(columns):
        left = 4 + number * (width + gap)
        places[name] = left
        if name == "pool":
            _box(axes, (left, 50, width, 10), "mean over\nthe crystal", f"S × {config.width}", FILL["pool"])
        elif name == "…":
            axes.text(left + width / 2, 55, "…", ha="center", va="center", fontsize=12)
        else:
            part = parts[name]
            text = f"block {int(name.partition('.')[2]) + 1}" if name in blocks else name.replace("_", " ")
            _box(axes, (left, 50, width, 10), text, part.output, FILL["weights"], f"{part.count:,}")
        if number:
            _arrow(axes, (left - gap, 55), (left, 55))
    axes.text(1.0, 55, "elements", rotation=90, ha="center", va="center", fontsize=6.5)
    axes.text(98.6, 55, "prediction", rotation=90, ha="center", va="center", fontsize=6.5)
    _draw_block(axes, config, parts, places["blocks.0"] + width / 2)
    return figure


def _draw_block(axes: "Axes", config: ModelConfig, parts: dict[str, Part], above: float) -> None:
    """Draw what is inside a block."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((1, 1), 98, 44, fill=False, edgecolor="#707070", linewidth=0.7, linestyle=(0, (4, 3))))
    axes.plot([above, above], [50, 45], color="#707070", linewidth=0.7, linestyle=(0, (4, 3)))
    said = f"inside a block: H = {config.num_heads} heads of width d = {config.head_width}"
    axes.text(2, 42.6, said, fontsize=7, va="center")
    attention = "blocks.0.attention"
    own = dict(line.split(" ", 1) for line in parts[attention].weights.split("\n"))
    frame = "no frame" if config.frame == "none" else f"frame {config.frame.replace('_', ' ')}\ne₁ e₂ e₃"
    angular = "" if config.frame == "none" else f"w_angl {own['w_angl']}"
    softmax = f"softmax over all\nneighbours within {config.cutoff:g} Å"
    bases = f"w_dist {own['w_dist']}\n{angular}"
    heads = f"N × {config.num_heads} × {config.head_width}"
    boxes: tuple[tuple[Place, str, str, str, str], ...] = (
        ((21, 24, 17, 16.5), softmax, "q·k/√d − r²/2σ²", "frame", f"sigma_weight {own.get('sigma_weight', '')}"),
        ((21, 5.5, 17, 13), frame, "N × H × 3 × 3", "frame", "no gradient through it"),
        ((43, 5.5, 20, 16), "moments of the bases", "distance, 3 cosines", "weights", bases),
        ((43, 26.5, 20, 12), "Σ p v + moments", heads, "pool", ""),
        ((84.5, 26.5, 13, 12), "x + attention(x)", f"N × {config.width}", "pool", ""),
    )
    for place, title, shape, kind, weights in boxes:
        _box(axes, place, title, shape, FILL[kind], weights)
    for left, bottom, width, height, name in (
        (3, 30.5, 13, 10, "attention.query"), (3, 18, 13, 10, "attention.key"), (3, 5.5, 13, 10, "attention.value"),
        (67.5, 26.5, 12, 12, "attention.out"), (67.5, 6.5, 12, 11, "ffn_in"), (82.5, 6.5, 12, 11, "ffn_out"),
    ):  # fmt: skip
        part = parts[f"blocks.0.{name}"]
        title = name.rpartition(".")[2].replace("_", " ")
        _box(axes, (left, bottom, width, height), title, part.output, FILL["weights"], part.weights.split("\n")[0])
    for start, end in (
        ((16, 35.5), (21, 34)), ((16, 23), (21, 30)), ((29.5, 24), (29.5, 18.5)), ((38, 12), (43, 12)),
        ((38, 33), (43, 33)), ((53, 21.5), (53, 26.5)), ((63, 32.5), (67.5, 32.5)), ((79.5, 32.5), (84.5, 32.5)),
        ((73.5, 22.3), (73.5, 17.5)), ((79.5, 12), (82.5, 12)), ((94.5, 12), (98, 12)),
    ):  # fmt: skip
        _arrow(axes, start, end)
    axes.plot([9.5, 9.5, 65, 65], [5.5, 3.2, 3.2, 30], color="#404040", linewidth=0.8)
    axes.plot([91, 91, 73.5], [26.5, 22.3, 22.3], color="#404040", linewidth=0.8)
    _arrow(axes, (65, 30), (63, 30))
    axes.text(82, 20.6, "x + FFN(x), ReLU between", fontsize=6, ha="center", va="center", color="#404040")


def _box(axes: "Axes", place: Place, title: str, shape: str, colour: str, weights: str = "") -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y, w, h = place
    style = "round,pad=0,rounding_size=1"
    axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor=colour, edgecolor="#606060", linewidth=0.7))
    texts = [(title, 7.0, "#000000"), (shape, 6.2, "#1F5FD0"), (weights, 5.4, "#606060")]
    top = y + h / 2 + 1.3 * sum(1 + text.count("\n") for text, _, _ in texts if text)
    for text, size, tone in (entry for entry in texts if entry[0]):
        height = 2.6 * (1 + text.count("\n"))
        middle: Any = {"ha": "center", "va": "center", "fontsize": size, "color": tone, "linespacing": 1.0}
        axes.text(x + w / 2, top - height / 2, text, **middle)
        top -= height


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    head = "-|>,head_width=0.15,head_length=0.25"
    style = {"arrowstyle": head, "linewidth": 0.8, "color": "#404040", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


ITEM = Item("architecture", "Architecture", "Drawn from the model's own modules and shapes.", "details", produce)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
