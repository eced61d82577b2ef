"""The attention that is shown is the one the model computes."""

import numpy as np
import pytest
import torch

from crystalframer.config import FRAMES, FrameName
from crystalframer.errors import UserError
from crystalframer.kernels.reference import attend
from crystalframer.prediction.explain import attention_of
from tests.fixtures.crystals import batch_of, generic_crystal
from tests.fixtures.models import loud_model, small_config


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_and_weights_reproduce_the_models_attention(frame: FrameName) -> None:
    model, crystal = loud_model(small_config(frame)), generic_crystal(1, num_atoms=4)
    batch = batch_of(crystal, cutoff=6.0)
    view = attention_of(model, crystal, block=1)
    assert view.weights.shape == (batch.num_edges, 2)
    total = np.add.reduceat(view.weights, view.first[:-1])
    assert np.allclose(total, 1, atol=1e-6)
    state = model.atom_states(batch)[1]
    inputs = model.levels[1].attention.inputs(state)
    with torch.no_grad():
        own = attend(inputs, batch, model.config)
        if view.frames is None:
            assert frame == "none"
            return
        given = attend(inputs, batch, model.config, frames=torch.from_numpy(view.frames).float())
    assert view.frames.shape == (4, 2, 3, 3)
    assert torch.allclose(own, given, atol=1e-5)
    if frame == "max":  # e1 points at the neighbour with the largest weight
        entries = view.entries(2)
        weights, vectors = view.weights[entries][1:], view.vector[entries][1:]
        nearest = vectors[weights[:, 0].argmax()]
        assert np.allclose(nearest / np.linalg.norm(nearest), view.frames[2, 0, 0], atol=1e-5)


def test_neighbours_are_where_the_view_says() -> None:
    model, crystal = loud_model(small_config("max")), generic_crystal(2, num_atoms=3)
    view = attention_of(model, crystal)
    centre = np.repeat(np.arange(3), np.diff(view.first))
    positions = crystal.cart_coords
    vector = positions[view.neighbour] + view.image @ crystal.lattice - positions[centre]
    assert np.allclose(vector, view.vector)
    assert np.allclose(np.linalg.norm(vector, axis=1), view.distance)
    assert (view.distance[view.first[:-1]] == 0).all()
    assert ((view.sigma > 0) & (view.sigma < model.config.sigma_max)).all()


def test_the_model_is_left_as_it_was() -> None:
    model = loud_model(small_config("max")).train()
    first = attention_of(model, generic_crystal(3))
    assert model.training
    assert np.array_equal(first.weights, attention_of(model, generic_crystal(3)).weights)


def test_blocks_and_atoms_that_are_not_there_are_refused() -> None:
    model, crystal = loud_model(small_config("max")), generic_crystal(1, num_atoms=4)
    with pytest.raises(UserError, match="got block 2, expected 0 to 1"):
        attention_of(model, crystal, block=2)
    with pytest.raises(UserError, match="got atom 4, expected 0 to 3"):
        attention_of(model, crystal).entries(4)
