"""Models of other packages, set up and trained as their own documentation has it; runs in an environment of theirs.

`matgl` (https://matgl.ai): MEGNet, M3GNet and TensorNet with the settings of their constructors, those of the two
formation-energy examples; Adam at 1e-3, falling to a hundredth along a cosine, as `ModelLightningModule` does.
`alignn` (https://github.com/atomgptlab/alignn): the recipe `knn` (at most 12 neighbours within 8 Å, AdamW, one cycle to
1e-3), with the sizes of the configuration class (`alignn_small`) or of recipe and paper (`alignn_paper`).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_worker import TICKS, Contender

RATE = 1e-3


def contender(name: str, elements: list[int]) -> Contender:
    """Return a model by name; `elements` are the atomic numbers that it will meet."""
    return _alignn(name) if name.startswith("alignn") else _matgl(name, elements)


def _matgl(name: str, elements: list[int]) -> Contender:
    from matgl.ext.pymatgen import Structure2Graph
    from matgl.graph.data import collate_fn_graph
    from matgl.models import M3GNet, MEGNet, TensorNet
    from matgl.utils.training import ModelLightningModule
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.periodic_table import Element
    from pymatgen.core.structure import Structure

    types = tuple(Element.from_Z(number).symbol for number in elements)
    kinds: dict[str, tuple[Any, dict[str, Any], float, str]] = {
        "megnet": (MEGNet, {}, 4.0, "MEGNet, 3 blocks, 4 Å"),
        "m3gnet": (M3GNet, {"readout_type": "set2set"}, 5.0, "M3GNet, 3 blocks, 5 Å, set2set"),
        "tensornet": (TensorNet, {"is_intensive": True}, 5.0, "TensorNet, 2 blocks, 5 Å"),
    }
    kind, options, cutoff, what = kinds[name]
    model = kind(element_types=types, **options)
    wrapped, converter = ModelLightningModule(model=model), Structure2Graph(element_types=types, cutoff=cutoff)

    def structure(lattice: Any, numbers: Any, coords: Any) -> Any:
        return Structure(Lattice(lattice), numbers.tolist(), coords)

    def graph(crystal: Any) -> Any:
        made, lattice, state = converter.get_graph(crystal)
        return made, lattice, torch.as_tensor(np.asarray(state), dtype=torch.float32), {"target": 0.0}

    def output(graphs: list[Any]) -> Tensor:
        batch, lattice, state, _ = collate_fn_graph(graphs)
        found: Tensor = wrapped(g=batch, lat=lattice, state_attr=state)
        return found

    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, eps=1e-8)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=TICKS, eta_min=RATE / 100)
    about = f"matgl's {what}; Adam at 1e-3, falling to 1e-5 along a cosine"
    return Contender(model, structure, graph, output, optimizer, scheduler, about, ("matgl", "torch_geometric"))


def _alignn(name: str) -> Contender:
    from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig
    from alignn.torch_graph_builder import batch_torch_graph_pairs, build_pure_torch_graph
    from alignn.utils import group_decay
    from jarvis.core.atoms import Atoms
    from jarvis.core.specie import atomic_numbers_to_symbols

    sizes = {"alignn_small": (2, 2, 64), "alignn_paper": (4, 4, 256)}
    angles, bonds, width = sizes[name]
    model = ALIGNNAtomWisePure(
        ALIGNNAtomWisePureConfig(
            name="alignn_atomwise_pure", atom_input_features=92, alignn_layers=angles, gcn_layers=bonds,
            hidden_features=width, calculate_gradient=False, gradwise_weight=0.0, energy_mult_natoms=False,
        )
    )  # fmt: skip

    def structure(lattice: Any, numbers: Any, coords: Any) -> Any:
        symbols = atomic_numbers_to_symbols(numbers)
        return Atoms(lattice_mat=lattice, coords=coords, elements=symbols, cartesian=False)

    def graph(crystal: Any) -> Any:
        pair = build_pure_torch_graph(crystal, two_body_cutoff=8.0, three_body_cutoff=3.5, max_neighbors=12)
        return pair, torch.as_tensor(np.asarray(crystal.lattice_mat), dtype=torch.float32)

    def output(graphs: list[Any]) -> Tensor:
        bonds, angles = batch_torch_graph_pairs([pair for pair, _ in graphs])
        found: Tensor = model([bonds, angles, torch.stack([lattice for _, lattice in graphs])])["out"]
        return found

    optimizer = torch.optim.AdamW(group_decay(model), lr=RATE, weight_decay=1e-5)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=TICKS, pct_start=0.3)
    about = f"ALIGNN of {angles} + {bonds} layers, width {width}, 12 neighbours within 8 Å; AdamW, one cycle to 1e-3"
    return Contender(model, structure, graph, output, optimizer, scheduler, about, ("alignn", "jarvis-tools"))
