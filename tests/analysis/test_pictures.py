"""What pictures are made of: chosen crystals, turns of frames, changes that change nothing, ties, maps."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from analysis.figures import continuity, invariance, ties
from analysis.figures.architecture import traced
from analysis.figures.error_maps import element_errors
from analysis.figures.frame_evolution import angle
from analysis.figures.speed import RESULTS, measurements
from analysis.items import Context
from analysis.material_errors import MaterialErrors
from analysis.materials import PAPER, Wanted, choose, formula
from analysis.results import read_sweep
from crystalframer.config import ModelConfig
from crystalframer.data.dataset import CrystalDataset
from crystalframer.data.sample import load_sample
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.geometry.neighbours import find_neighbours
from crystalframer.pictures.attention_drawing import opacity_of
from crystalframer.pictures.crystal_drawing import cell_edges, full_cell
from crystalframer.pictures.error_drawing import place
from crystalframer.prediction.explain import attention_of
from tests.analysis.conftest import SWEEP, Store
from tests.fixtures.crystals import crystal, generic_crystal, symmetric_crystals
from tests.fixtures.models import LOUD


def test_the_papers_material_is_taken_where_it_is() -> None:
    carbon_nitride = choose(load_sample(), PAPER[1])
    assert carbon_nitride is not None
    assert carbon_nitride.exact
    assert formula(carbon_nitride.crystal) == "C₃N₄"
    assert carbon_nitride.crystal.atomic_numbers[carbon_nitride.atom] == 6
    fluoride = choose(load_sample(), PAPER[0])
    assert fluoride is not None
    assert not fluoride.exact
    assert "the nearest to the paper's MgSnF₄" in fluoride.caption


def test_the_nearest_crystal_shares_most_elements_then_has_the_nearest_composition() -> None:
    box = 8 * np.eye(3)
    places = [[0.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    crystals = {
        "a-few-shared": crystal(box, places[:2], [12, 8]),
        "c-shares-two": crystal(box, places[:3], [12, 12, 9]),
        "b-shares-two-nearer": crystal(box, places, [9, 12, 9, 9]),
        "d-no-magnesium": crystal(box, places, [50, 9, 9, 9]),
    }
    named = [type(found)(found.lattice, found.frac_coords, found.atomic_numbers, id) for id, found in crystals.items()]
    chosen = choose(CrystalDataset.from_crystals("toy", named), PAPER[0])
    assert chosen is not None
    assert (chosen.crystal.id, chosen.atom, chosen.exact) == ("b-shares-two-nearer", 1, False)
    assert choose(CrystalDataset.from_crystals("toy", named), Wanted({"Xe": 1}, "Xe", "Xe")) is None


def test_turns_of_frames_are_the_angles_of_rotations() -> None:
    frames = Rotation.random(5, rng=np.random.default_rng(0)).as_matrix()
    turns = np.array([0.0, 10.0, 90.0, 170.0, 180.0])
    axes = np.random.default_rng(1).normal(size=(5, 3))
    rotations = Rotation.from_rotvec(np.radians(turns)[:, None] * axes / np.linalg.norm(axes, axis=1, keepdims=True))
    np.testing.assert_allclose(angle(frames, frames @ rotations.as_matrix()), turns, atol=1e-5)


@pytest.mark.parametrize("kind", invariance.CHANGES)
def test_a_change_leaves_the_crystal_the_same_and_is_one(kind: str) -> None:
    before = generic_crystal(3, 4)
    after = invariance.CHANGES[kind](before, np.random.default_rng(0))
    times = after.num_atoms // before.num_atoms
    assert np.linalg.det(after.lattice) == pytest.approx(times * np.linalg.det(before.lattice))
    distances = [
        np.sort(np.linalg.norm(find_neighbours(entry.lattice, entry.cart_coords, 4.0).vector, axis=1))
        for entry in (before, after)
    ]
    np.testing.assert_allclose(np.repeat(distances[0], times), distances[1], atol=1e-6 if kind == "CIF" else 1e-9)
    same = after.num_atoms == before.num_atoms and np.allclose(after.lattice, before.lattice)
    assert not (same and np.allclose(after.frac_coords, before.frac_coords))


def test_trained_models_are_as_invariant_as_their_frames(trained: Store) -> None:
    context = Context(read_sweep(trained.tracking_uri, SWEEP, trained.runs), SWEEP, trained.runs)
    crystals = [generic_crystal(seed, 4) for seed in range(4)]
    changes = {}
    for frame in ("none", "pca", "max"):
        model = context.model(frame)
        assert model is not None
        table = invariance.measure(model, crystals)
        assert set(table["ties"]) == {"first", "mean"}
        changes[frame] = table[table["ties"] == "first"].set_index("change")["largest"].drop("CIF").to_dict()
    assert max(changes["none"].values()) < 1e-5
    assert max(changes["max"].values()) < 1e-5  # no ties without symmetry
    assert changes["pca"]["rotation"] < 1e-5 < changes["pca"]["another cell"]


def test_the_mean_over_ties_makes_predictions_of_symmetric_crystals_invariant(trained: Store) -> None:
    context = Context(read_sweep(trained.tracking_uri, SWEEP, trained.runs), SWEEP, trained.runs)
    model = deepcopy(context.model("max"))  # other tests have the same one
    assert model is not None
    with torch.no_grad():
        for block in model.model.levels:
            assert block.attention.w_angl is not None
            block.attention.w_angl.mul_(LOUD)  # three epochs teach little about directions
    table = invariance.measure(model, list(symmetric_crystals().values()))
    largest = table.pivot(index="change", columns="ties", values="largest")
    exact = largest.drop("CIF")
    assert exact["mean"].max() < invariance.ASKED["most"]
    assert exact["first"].max() > 3 * exact["mean"].max()
    assert float(largest["mean"]["CIF"]) < invariance.ASKED["most, CIF"]
    table.insert(0, "data", "symmetric")
    assert len(invariance.tabulate(table).tables[0].rows) == len(invariance.RULES)
    assert len(invariance.draw(table).axes) == len(invariance.RULES)


def test_the_mean_over_ties_has_no_slope_at_a_symmetric_crystal(trained: Store) -> None:
    context = Context(read_sweep(trained.tracking_uri, SWEEP, trained.runs), SWEEP, trained.runs)
    model = context.model("max")
    assert model is not None
    table = continuity.follow(model)
    assert model.model.ties == "first", "other figures draw with what the model was trained with"
    near = table[np.isclose(table["step"], continuity.STEPS[1]) & (table["path"] == "rocksalt, rattled")]
    slope = near.set_index("ties")["change"].abs() / continuity.STEPS[1]
    assert slope["mean"] < 0.1 * slope["first"]
    assert (table[table["step"] == 0]["change"] == 0).all()
    assert len(continuity.draw(table, "eV").axes) == len(continuity.PATHS)
    assert len(continuity.tabulate(table, "eV").tables[0].rows) == len(continuity.PATHS) * len(invariance.RULES)


def test_symmetry_ties_frames_and_its_absence_does_not() -> None:
    for name in ("rocksalt", "simple_cubic"):
        shares = {entry["frame"]: entry["tied"] for entry in ties.count(symmetric_crystals()[name], {})}
        assert shares["lattice"] == shares["static_local"] == 1.0
        assert ties.crystal_system(symmetric_crystals()[name]) == "cubic"
    generic = generic_crystal(5, 5)
    assert {entry["frame"]: entry["tied"] for entry in ties.count(generic, {})} == {
        "pca": 0.0,
        "lattice": 0.0,
        "static_local": 0.0,
    }
    assert ties.crystal_system(generic) == "triclinic"


def test_an_elements_error_is_that_of_the_materials_with_it() -> None:
    box = 5 * np.eye(3)
    crystals = [
        type(entry)(entry.lattice, entry.frac_coords, entry.atomic_numbers, f"id-{number}")
        for number, entry in enumerate(
            [crystal(box, [[0.0, 0, 0], [0.5, 0, 0]], [3, 9])] * 3 + [crystal(box, [[0.0, 0, 0]], [3])]
        )
    ]
    errors = MaterialErrors(tuple(f"id-{n}" for n in range(4)), np.zeros(4), np.array([[1.0], [-2.0], [3.0], [10.0]]))
    found = element_errors(CrystalDataset.from_crystals("toy", crystals), errors)
    assert {ELEMENTS[error.number - 1]: error.mae for error in found} == {"Li": 4.0, "F": 2.0}
    assert {ELEMENTS[error.number - 1]: error.crystals for error in found} == {"Li": 4, "F": 3}


def test_every_element_has_a_place_of_its_own() -> None:
    places = [place(symbol) for symbol in ELEMENTS[:103]]
    assert len(set(places)) == 103
    assert (place("H"), place("He"), place("La"), place("Hf")) == ((1, 1), (1, 18), (9, 3), (6, 4))


def test_a_full_cell_repeats_corners_and_edges() -> None:
    positions, numbers = full_cell(crystal(4 * np.eye(3), [[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0]], [55, 17, 8]))
    assert {int(number): int((numbers == number).sum()) for number in numbers} == {55: 8, 17: 1, 8: 2}
    assert positions.min() == 0.0
    assert positions.max() == 4.0
    starts, ends = cell_edges(np.diag([1.0, 2.0, 3.0]))
    assert sorted(np.linalg.norm(ends - starts, axis=1)) == [1.0] * 4 + [2.0] * 4 + [3.0] * 4


def test_opacity_follows_attention() -> None:
    opacity = opacity_of(np.array([0.4, 0.2, 0.0]))
    assert opacity[0] == 1.0 > opacity[1] > opacity[2] > 0.0


def test_the_architecture_is_the_models_own() -> None:
    config = ModelConfig(frame="weighted_pca", num_blocks=2, cutoff=4.5)
    _, parts = traced(config)
    assert parts["blocks.0.attention.query"].weights == "weight 128 × 128\nbias 128"
    assert "w_angl 3 × 8 × 16 × 64" in parts["blocks.1.attention"].weights
    assert parts["blocks.0.ffn_in"].output == "N × 512"
    assert parts["head_out"].output == "S × 1"
    assert parts[""].count == sum(parts[name].count for name in ("embedding", "blocks", "head_in", "head_out"))


def test_views_and_snapshots_are_those_of_the_recorded_models(trained: Store) -> None:
    context = Context(read_sweep(trained.tracking_uri, SWEEP, trained.runs), SWEEP, trained.runs)
    trial = context.trial("max")
    assert trial is not None
    assert [path.name for path in trial.files.snapshots()] == ["epoch_0001.pt", "epoch_0002.pt", "epoch_0003.pt"]
    model = context.model("max")
    assert model is not None
    view = attention_of(model.model, generic_crystal(0), 1)
    assert view.frames is not None
    np.testing.assert_allclose(np.linalg.det(view.frames), 1.0, atol=1e-5)
    assert context.trial("lattice") is None


def test_recorded_benchmarks_can_be_read() -> None:
    table = measurements(RESULTS)
    assert table.empty or {"step", "forward"} >= set(table["quantity"])
    assert measurements(RESULTS / "nowhere").empty
