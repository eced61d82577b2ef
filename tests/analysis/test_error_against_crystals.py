"""The picture of what training crystals buy, from trials that learned from different numbers of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.comparison import compare
from analysis.figures import error_against_crystals
from analysis.items import Context
from analysis.peers import Peer, trees_name
from analysis.published_errors import published_mae
from analysis.results import MissingError, read_sweep
from tests.analysis.conftest import SWEEP, Store

ERRORS = {("none", 250): 0.9, ("none", 4000): 0.5, ("max", 250): 0.8, ("max", 4000): 0.3}


def stored(store: Store) -> None:
    """Two seeds of each of `ERRORS`, .1 apart; the largest training set has no number in its settings."""
    for (frame, crystals), mae in ERRORS.items():
        for seed in (0, 1):
            error = mae + 0.1 * seed
            store.add(
                frame,
                seed,
                test_mae=error,
                settings={"data.train_size": crystals if crystals < 4000 else None},
                tags={"num_train": str(crystals)},
                predictions={"one": (0.0, error), "two": (1.0, 1.0 - error)},
            )


def test_lines_join_the_means_over_seeds_and_dots_are_trials(store: Store) -> None:
    stored(store)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
    labels = [row.label for row in comparison.rows if row.frame == "max"]
    assert labels == ["max, train_size 250", "max, train_size all"]
    (axes,) = error_against_crystals.draw(comparison).axes
    named = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.lines}
    assert named["max"] == pytest.approx(np.array([[250, 0.85], [4000, 0.35]]))
    assert named["none (Crystalformer)"] == pytest.approx(np.array([[250, 0.95], [4000, 0.55]]))
    dots = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_marker() == "o"]
    assert sorted(map(len, dots)) == [4, 4]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["250", "4,000"]


def test_trees_stand_beside_where_they_learned_from_as_many_crystals(store: Store) -> None:
    stored(store)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP, store.runs))
    off = pd.Series([0.75, 0.25], index=["one", "two"])
    (axes,) = error_against_crystals.draw(comparison, [Peer(trees_name(250), off, None)]).axes
    (trees,) = [line for line in axes.lines if line.get_marker() == "s"]
    assert np.asarray(trees.get_xydata()) == pytest.approx(np.array([[250, 0.75]]))


def test_equal_training_sets_have_nothing_to_draw(store: Store, tmp_path: Path) -> None:
    store.add("max", 0)
    context = Context(read_sweep(store.tracking_uri, SWEEP), SWEEP, tmp_path)
    with pytest.raises(MissingError, match=r"no trials that differ by data\.train_size"):
        error_against_crystals.produce(context)


def test_published_errors_stand_beside_the_rows_that_learned_from_all(store: Store) -> None:
    settings = {"data.dataset": "jarvis", "data.task": "bandgap_mbj", "model.preset": "lightweight"}
    for size, crystals in ((250, "250"), (None, "14537")):
        tags = {"num_train": crystals, "num_val": "1817", "num_test": "1815"}
        store.add("max", 0, unit="eV", settings={**settings, "data.train_size": size}, tags=tags)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
    beside = {row.label: published_mae(comparison, row) for row in comparison.finished}
    assert beside == {"max, train_size 250": None, "max, train_size all": pytest.approx(0.262)}
