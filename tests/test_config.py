"""Settings: texts become numbers where a setting is one, bounds hold before anything is built, names stay."""

from dataclasses import replace
from typing import Any

import pytest

from crystalframer.errors import UserError
from crystalframer.resolving import build_trial, trial_from_dict

LONG = "x" * 1_000_000


@pytest.mark.parametrize("text", ["5e-4", "5E-4", "0.0005", ".0005", "5.e-4", "+5e-04"])
def test_a_text_is_a_number_where_the_setting_is_one(text: str) -> None:
    assert build_trial({"train.learning_rate": text}) == build_trial({"train.learning_rate": 5e-4})


def test_a_text_stays_a_text_where_the_setting_is_one() -> None:
    trial = build_trial({"data.dataset": "2024", "data.task": "1e3", "train.epochs": "1_000", "data.train_size": "12"})
    assert (trial.data.dataset, trial.data.task) == ("2024", "1e3")
    assert (trial.train.epochs, trial.data.train_size) == (1000, 12)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.width", 200_000, "'model.width': got 200000, expected a whole number, at most 4,096"),
        ("model.width", 130, "'model.width': got 130, expected a multiple of model.num_heads"),
        ("model.num_heads", 0, "'model.num_heads': got 0, expected a whole number, at least 1"),
        ("model.num_blocks", 10**6, "'model.num_blocks': got 1000000, expected a whole number, at most 256"),
        ("model.cutoff", 1e308, "'model.cutoff': got 1e[+]308, expected a number, at most 30"),
        ("model.cutoff", "1e999", "'model.cutoff': got inf, expected a number"),
        ("model.cutoff", float("nan"), "'model.cutoff': got nan, expected a"),
        ("model.c_angl", float("inf"), "'model.c_angl': got inf, expected a"),
        ("model.rho_floor", 1, "'model.rho_floor': got 1, expected a number below 1"),
        ("train.epochs", 10**20, "'train.epochs': got 1" + 20 * "0" + ", expected a whole number, at most 1,000,000"),
        ("train.epochs", "1" + 20 * "0", "'train.epochs': got 1" + 20 * "0" + ", expected a whole number, at most"),
        ("train.epochs", "9" * 5000, "'train.epochs': got '9+[.]{3}9+', expected a whole number"),
        ("train.epochs", 2.0, "'train.epochs': got 2.0, expected a whole number"),
        ("train.epochs", True, "'train.epochs': got True, expected a whole number"),
        ("train.epochs", "010", "'train.epochs': got '010', expected a whole number .without the leading zero: 10"),
        ("train.epochs", "1:30", "'train.epochs': got '1:30', expected a whole number"),
        ("train.learning_rate", 0, "'train.learning_rate': got 0, expected a positive number"),
        ("train.beta_1", 1, "'train.beta_1': got 1, expected a number below 1"),
        ("train.weight_decay", -1, "'train.weight_decay': got -1, expected a number, at least 0"),
        ("train.seed", 2**31, "'train.seed': got 2147483648, expected a whole number below 2,147,483,648"),
        ("train.kernel", "cpuu", "unknown train.kernel 'cpuu' .did you mean 'cpu'"),
        ("train.preset", ["mp"], "unknown train.preset .'mp'."),
        ("data.train_size", 0, "'data.train_size': got 0, expected a whole number, at least 1"),
        ("data.dataset", None, "'data.dataset': got None, expected text"),
        ("data.dataset", LONG, "'data.dataset': got 'x+[.]{3}x+', expected text of at most 200 characters"),
        ("train.start_from", LONG, "cannot read 'x+[.]{3}x+'"),
        ("train.start_from", "/dev/zero", "cannot read '/dev/zero' .it is no regular file."),
        (f"train.{LONG}", 1, "unknown setting 'train.x+[.]{3}x+'"),
        ("train.epochs", b"3", "'train.epochs': got \"b'3'\", expected a whole number"),
        ("data.dataset", "\ud800", "got .*, expected another value .json invalid."),
        ("train.epochs", {LONG: [LONG] * 9}, "'train.epochs': got"),
    ],
)
def test_bounds_hold_before_anything_is_built(key: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        build_trial({key: value})
    assert len(str(caught.value)) < 1500


def test_sizes_that_are_too_large_together_are_refused() -> None:
    sizes = {"num_blocks": 256, "width": 4096, "ffn_width": 65536}
    with pytest.raises(
        UserError, match=r"'model.num_blocks': got 256, expected a model of at most 1,000,000,000 weights"
    ):
        trial_from_dict({"model": sizes})


def test_settings_keep_their_fingerprints() -> None:
    assert build_trial({}).fingerprint() == "3267722c"
    assert [build_trial({"train.preset": name}).fingerprint() for name in ("jarvis", "mp", "oqmd")] == [
        "3267722c",
        "5882f5e5",
        "af8f82c0",
    ]
    lightweight = {"model.preset": "lightweight", "model.cutoff": 6, "train.weight_decay": 0, "data.train_size": 500}
    assert build_trial(lightweight).fingerprint() == "b5369427"
    assert build_trial({**lightweight, "model.cutoff": "6", "data.train_size": "500"}).fingerprint() == "b5369427"


@pytest.mark.parametrize(
    ("settings", "averaged"),
    [
        ({"train.epochs": 30}, 6),
        ({"train.epochs": "30"}, 6),
        ({"train.epochs": 4}, 0),
        ({"train.epochs": 30, "train.preset": "jarvis"}, 6),
        ({"train.epochs": 50}, 50),
        ({"train.epochs": 60}, 50),
        ({}, 50),
        ({"train.epochs": 30, "train.average_epochs": 30}, 30),
        ({"train.epochs": 30, "train.schedule": "one_cycle"}, 0),
        ({"train.preset": "quick", "train.minutes": 5}, 0),
        ({"train.preset": "quick", "train.average_epochs": 3}, 3),
    ],
)
def test_a_short_training_averages_over_a_fifth_unless_told_otherwise(settings: dict[str, Any], averaged: int) -> None:
    assert build_trial(settings).train.average_epochs == averaged


def test_the_thorough_preset_is_the_quick_one_three_times_as_long_at_half_its_rate() -> None:
    quick, thorough = (build_trial({"train.preset": name}) for name in ("quick", "thorough"))
    assert thorough.model == quick.model
    assert thorough.train == replace(quick.train, epochs=90, learning_rate=quick.train.learning_rate / 2)


def test_the_quick_preset_sets_model_and_training_and_other_keys_are_differences_to_it() -> None:
    quick = build_trial({"train.preset": "quick", "train.epochs": 12, "model.frame": "none"})
    assert (quick.model.cutoff, quick.train.schedule, quick.train.epochs) == (5.0, "one_cycle", 12)
    assert quick.model == build_trial({"model.preset": "lightweight", "model.cutoff": 5, "model.frame": "none"}).model


def test_a_model_preset_that_is_asked_for_replaces_the_encoding_of_a_training_preset() -> None:
    quick = build_trial({"train.preset": "quick", "model.preset": "default"})
    assert quick.model == build_trial({"model.preset": "default", "model.cutoff": 5}).model
    assert quick.model == build_trial({"model.cutoff": 5}).model != build_trial({"train.preset": "quick"}).model


def test_more_averaging_than_epochs_is_refused_where_it_is_stated() -> None:
    with pytest.raises(UserError, match=r"'train.average_epochs': got 50, expected between 0 and train.epochs \(30\)"):
        build_trial({"train.epochs": 30, "train.average_epochs": 50})
