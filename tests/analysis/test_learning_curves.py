"""The learning curves: what is drawn, and that it is the same each time."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from analysis.comparison import compare
from analysis.figures import learning_curves
from analysis.figures.learning_curves import draw, over_seeds, spread_out
from analysis.results import read_sweep
from crystalframer.config import FRAMES
from crystalframer.pictures.palette import COLOURS
from tests.analysis.conftest import EPOCHS, SWEEP, Store


def test_figures_are_written_and_reproducible(store: Store, tmp_path: Path) -> None:
    for frame in ("none", "max"):
        for seed in (0, 1):
            store.add(frame, seed, test_mae=0.3 + 0.01 * seed)
    arguments = ["--sweep", SWEEP, "--runs", str(store.runs), "--output"]
    for folder in ("first", "second"):
        assert learning_curves.ITEM.main([*arguments, str(tmp_path / folder)]) == 0
    for suffix, start in {"pdf": b"%PDF", "png": b"\x89PNG"}.items():
        name = f"{SWEEP}/learning_curves_sample_formation_energy.{suffix}"
        content = (tmp_path / "first" / name).read_bytes()
        assert content.startswith(start)
        assert content == (tmp_path / "second" / name).read_bytes()


def test_each_frame_has_its_colour_its_mean_and_its_label(store: Store) -> None:
    for n, frame in enumerate(FRAMES):
        for seed in (0, 1):
            store.add(frame, seed, test_mae=0.3 + 0.01 * n + 0.1 * seed)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))

    loss_axes, mae_axes = draw(comparison).axes

    curves = [line for line in mae_axes.lines if len(line.get_ydata()) == EPOCHS]  # type: ignore[arg-type]
    assert [to_hex(str(line.get_color())).upper() for line in curves] == [COLOURS[frame] for frame in FRAMES]
    mean_test_mae = 0.3 + 0.05  # of the first frame's two seeds
    drawn = np.asarray(curves[0].get_ydata(), dtype=float)
    np.testing.assert_allclose(drawn, mean_test_mae * (1 + 1 / np.arange(1, EPOCHS + 1)))
    labels = {text.get_text() for text in mae_axes.texts}
    assert {row.label for row in comparison.rows} <= labels
    assert "averaged\nweights" in labels
    assert (loss_axes.get_yscale(), mae_axes.get_yscale()) == ("log", "log")
    baseline = [line for line in mae_axes.lines if line.get_linestyle() == "--"]
    assert [list(np.asarray(line.get_ydata(), dtype=float)) for line in baseline] == [[1.0, 1.0]]


def test_the_band_spans_the_seeds(store: Store) -> None:
    for seed, mae in enumerate((0.2, 0.3, 0.7)):
        store.add("max", seed, test_mae=mae)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
    (row,) = (row for row in comparison.rows if row.trials)
    last = over_seeds(row, "val_mae").loc[EPOCHS] / (1 + 1 / EPOCHS)
    assert last.to_dict() == pytest.approx({"mean": 0.4, "min": 0.2, "max": 0.7})


def test_seeds_of_other_lengths_are_averaged_where_they_are(store: Store) -> None:
    store.add("max", 0, test_mae=0.2)
    run_id = store.add("max", 1, test_mae=0.4)
    store.client.log_metric(run_id, "train/loss", 0.05, step=EPOCHS + 1)
    (comparison,) = compare(read_sweep(store.tracking_uri, SWEEP))
    (row,) = (row for row in comparison.rows if row.trials)
    assert over_seeds(row, "train_loss").loc[EPOCHS + 1, "mean"] == pytest.approx(0.05)
    assert over_seeds(row, "val_mae").loc[EPOCHS, "mean"] == pytest.approx(0.3 * (1 + 1 / EPOCHS))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_keep_their_order_and_their_distance(positions: list[float]) -> None:
    placed = spread_out(positions, gap=0.1, low=-0.5)
    order = np.argsort(positions, kind="stable")
    assert (np.diff(placed[order]) >= 0.1 - 1e-9).all()
    assert placed.min() >= -0.5 - 1e-9
    if len(positions) == 1 or np.diff(np.sort(positions)).min() > 0.1 + 1e-9:
        np.testing.assert_allclose(placed, positions)


def test_without_results_it_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learning_curves.ITEM.main(["--runs", str(tmp_path)]) == 2
    assert "run `crystalframer sweep" in capsys.readouterr().err
